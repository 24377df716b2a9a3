"""What a pretrained network gets before it is trained: batch normalisation put back, and a head that starts well.

Files that were made to be run, not trained, hold batch normalisation as an identity, or folded into the convolutions.
Trained so, a network diverges at rates that it was made with (section 4.1.2).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from xconsensus.errors import InputError
from xconsensus.members.network import Network

PUT_BACK, OWN, PROBE = "batch normalisation put back", "own batch normalisation", "linear probe first"
_PENALTY = 0.01  # of the probe's weights on features of unit variance
_STEPS = 100


class Preparation:
    """How a member's network, given in its way of evaluation, is made ready: as ``way`` says.

    Where a member's convolutions hold batch normalisation (``folded``), each but the head's gets one of its own, an
    identity until `fit`; `fold` undoes this. ``head`` names the tensors whose shape follows the number of classes.

    Raises InputError naming the member where no convolution can hold any.
    """

    def __init__(self, network: Network, head: Sequence[str]) -> None:
        self.network, self.head, member = network, head, network.member
        if member.folded and not _insert_norms(network.model, {name.rpartition(".")[0] for name in head}):
            raise InputError(
                f"member {member.name}: folded=true, and no convolution before its head has a bias, which folding gives"
                " it: leave it out"
            )
        norms = [module for module in network.model.modules() if isinstance(module, _BatchNorm)]
        self._norms = [norm for norm in norms if _is_unused(norm)]
        self.way = PUT_BACK if self._norms else OWN if norms else PROBE

    def fit(self, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        """Set what is put back, and the head, by ``batches``: normalised inputs (n, 3, s, s) and labels (n,).

        Layers' mean and variance become those of what reaches them, their weight and bias what undoes that: but for
        the head, the function stays as it is, to rounding. The head becomes zero, or the probe of a network that has
        no batch normalisation. Raises InputError naming the member whose features no probe can be fitted to.
        """
        with torch.no_grad():
            put_back(self.network.model, self._norms, (inputs for inputs, _ in batches()))
            if self.way == PROBE and (found := _head_module(self.network.model, self.head)):
                _probe(self.network, found, batches)
                return
            for name in self.head:
                self.network.model.get_parameter(name).zero_()

    def fold(self) -> None:
        """Fold what was put in, that the network has the tensors of its architecture again."""
        for name, module in list(self.network.model.named_modules()):
            if isinstance(module, _Normalised):
                self.network.model.set_submodule(name, module.folded())


class _Normalised(nn.Sequential):
    """A convolution and the batch normalisation that is put behind it."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        norm = nn.BatchNorm2d(convolution.out_channels, device=convolution.weight.device)
        super().__init__(convolution, norm.eval())

    def folded(self) -> nn.Conv2d:
        """The convolution that computes the same in evaluation."""
        convolution, norm = self
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        given = [norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias]
        doubled = [each.detach().double() if isinstance(each, Tensor) else each for each in given]
        tensors = [None if each is None else each.detach().double() for each in (convolution.weight, convolution.bias)]
        weight, bias = fuse_conv_bn_weights(*tensors, *doubled)  # type: ignore[arg-type]
        convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype), requires_grad=False)
        return convolution


def _insert_norms(model: nn.Module, heads: Iterable[str]) -> int:
    """Put batch normalisation behind each convolution with a bias that is none of ``heads``; how many there are."""
    every = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    found = [(name, module) for name, module in every if module.bias is not None and name not in heads]
    for name, module in found:
        model.set_submodule(name, _Normalised(module))
    return len(found)


def _is_unused(norm: _BatchNorm) -> bool:
    """Whether a layer's statistics are those that layers begin with, or those of an identity."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None or norm.weight is None:
        return False
    return not mean.any() and bool(((var - 1).abs() < 1e-3).all())


def put_back(model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Set the statistics of ``norms``, layers of the ``model`` in evaluation, to those of what reaches them.

    Parameters
    ----------
    model, norms : the network, which computes the same afterwards, and the layers.
    batches : inputs (n, 3, s, s), one pass of which is made.
    """
    seen: dict[_BatchNorm, tuple[int, Tensor, Tensor]] = {}

    def see(norm: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        values = given[0].float().transpose(0, 1).flatten(1)
        variance, mean = (each.double() for each in torch.var_mean(values, dim=1, correction=0))
        before, old, spread = seen.get(norm, (0, torch.zeros_like(mean), torch.zeros_like(mean)))
        total = before + (count := values.shape[1])
        merged = spread + variance * count + (mean - old).square() * (before * count / total)  # Chan et al. 1979
        seen[norm] = (total, old + (mean - old) * (count / total), merged)

    with _hooks(norms, see):
        for inputs in batches if norms else ():
            model(inputs)
    for norm, (count, mean, spread) in seen.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(spread / count)
        norm.weight.copy_(scale * (norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(shift + norm.running_mean.double() * scale)


def _head_module(model: nn.Module, head: Sequence[str]) -> nn.Linear | nn.Conv2d | None:
    """The layer that the head consists of, None where it is none that is linear in pooled features."""
    names = {name.rpartition(".")[0] for name in head}
    module = model.get_submodule(names.pop()) if len(names) == 1 else None
    is_linear = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
    return module if is_linear and module.bias is not None else None  # type: ignore[union-attr, return-value]


def _probe(
    network: Network, head: nn.Linear | nn.Conv2d, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]
) -> None:
    """Set the head to the linear classifier of the images' pooled features.

    A head of convolution gets a bias so large that nothing that it gives is negative: it is softmax that follows, or,
    as in SqueezeNet, a rectifier, behind which a head of zeros never learns. Raises InputError naming the member whose
    features are too large.
    """
    found, labels, lowest = list[Tensor](), list[Tensor](), [0.0]

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        found.append(given[0].float().flatten(2).mean(2) if given[0].ndim == 4 else given[0].float())

    with _hooks([head], keep):
        for inputs, label in batches():
            network(inputs)
            labels.append(label)
    features = torch.cat(found)
    if not features.square().isfinite().all():
        raise InputError(
            f"member {network.member.name}: on training images its head is given up to {features.abs().max():.1e}, to"
            " which nothing can be fitted: look at its weights, mean and std, or set finetune.prepare=false"
        )
    weight, bias = linear_probe(features, torch.cat(labels), head.weight.shape[0])
    head.weight.copy_(weight.view_as(head.weight))
    assert head.bias is not None
    head.bias.copy_(bias)
    if isinstance(head, nn.Conv2d):

        def look(module: nn.Module, given: tuple[Any, ...]) -> None:
            assert isinstance(module, nn.Conv2d)
            lowest.append(float(F.conv2d(given[0], module.weight, module.bias).min()))

        with _hooks([head], look):
            for inputs, _ in batches():
                network(inputs)
        head.bias.sub_(min(lowest))


@torch.enable_grad()
def linear_probe(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, d) and bias (classes,) of multinomial logistic regression on ``features`` (n, d) with ``labels``
    (n,), its squared weights on features of unit variance penalised.
    """
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    scaled = ((features - mean) / std).detach()
    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        solver.zero_grad()
        value = F.cross_entropy(scaled @ weight.T + bias, labels.to(scaled.device)) + _PENALTY * weight.square().sum()
        value.backward()
        return float(value.detach())

    solver.step(loss)
    own = weight.detach() / std
    return own, bias.detach() - own @ mean


@contextmanager
def _hooks(modules: Sequence[nn.Module], see: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    """Have ``see`` called with each of the modules and what it is given."""
    handles = [module.register_forward_pre_hook(see) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
