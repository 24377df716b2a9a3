"""Batch normalisation folded into the convolution before it: fewer passes over memory, the same function."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from xconsensus.arithmetic.fewer_bits import noise
from xconsensus.members.network import Network, logits_of

_TOLERANCE = 1e-3  # of the largest logit; folding itself changes some 1e-6


@dataclass(frozen=True)
class _Pair:
    """A convolution and the batch normalisation, module ``name``, that took its output."""

    convolution: nn.Conv2d
    name: str
    norm: nn.BatchNorm2d


def fold(network: Network) -> Network:
    """The network, in place, with batch normalisation folded: faster, and not to be trained any more."""
    fold_batch_norms(network.model, noise(network)[:1])
    return network


def fold_batch_norms(model: nn.Module, inputs: Tensor) -> int:
    """Fold every batch normalisation that follows a convolution into it, in place; how many there were.

    In evaluation mode both are affine, so their composition is one convolution (Jacob et al. 2018, section 3.2,
    doi:10.1109/CVPR.2018.00286). Which follows which is seen in one pass of ``inputs`` (n, 3, H, W), whatever code
    the model runs; a model that computes something else afterwards (one that standardises its weights, or uses a
    convolution's output twice) is put back as it was, and 0 returned. An activation that is part of the normalisation
    (timm's BatchNormAct2d) stays in its place. Weights must not be trained afterwards.
    """
    with torch.no_grad():
        pairs, expected = _pairs(model, inputs)
        before = [(pair, pair.convolution.weight, pair.convolution.bias) for pair in pairs]
        for pair in pairs:
            _fold(pair)
            model.set_submodule(pair.name, _what_remains(pair.norm))
        error = (logits_of(model(inputs.clone())) - expected).abs().max()
    if error <= _TOLERANCE * expected.abs().max():  # also false for NaN
        return len(pairs)
    for pair, weight, bias in before:
        pair.convolution.weight, pair.convolution.bias = weight, bias
        model.set_submodule(pair.name, pair.norm)
    return 0


def _pairs(model: nn.Module, inputs: Tensor) -> tuple[list[_Pair], Tensor]:
    """Convolutions followed by a batch normalisation, both called once, and the model's output."""
    names = {module: name for name, module in model.named_modules()}
    calls: dict[nn.Module, int] = {}
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by identity of the output, which is kept so that it stays unique
    found: list[_Pair] = []

    def see(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and given and id(given[0]) in made:
            found.append(_Pair(made[id(given[0])][0], names[module], module))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(see) for module in names if isinstance(module, kinds)]
    try:
        output = logits_of(model(inputs.clone()))  # some models change what they get
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in found if calls[pair.convolution] == calls[pair.norm] == 1 and _foldable(pair)], output


def _foldable(pair: _Pair) -> bool:
    return pair.norm.running_var is not None and not pair.norm.training and not is_parametrized(pair.convolution)


def _fold(pair: _Pair) -> None:
    convolution, norm = pair.convolution, pair.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    bias = None if convolution.bias is None else convolution.bias.double()
    weight, bias = (  # in float64, rounded once
        each.to(convolution.weight.dtype)
        for each in fuse_conv_bn_weights(
            *(convolution.weight.double(), bias, norm.running_mean.double(), norm.running_var.double()),
            *(norm.eps, norm.weight, norm.bias),
        )
    )
    weight = weight.contiguous(memory_format=torch.channels_last)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """The normalisation's own activation, if it has one."""
    parts = [getattr(norm, part) for part in ("drop", "act") if isinstance(getattr(norm, part, None), nn.Module)]
    return nn.Sequential(*parts) if parts else nn.Identity()
