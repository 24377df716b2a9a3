"""What every member owes, tried on a few images of noise before work begins."""

import inspect
from contextlib import AbstractContextManager
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from xconsensus import own_code
from xconsensus.errors import InputError
from xconsensus.members.network import Network, logits_of
from xconsensus.members.weights import other_classes

VERSION = 2  # of the rules below: a member that kept to those of another version is probed again
_TOLERANCE = 1e-4  # of the largest logit, in float32


def probe(network: Network, classes: int, gradients: bool = False, finite: bool = True) -> str | None:
    """Try a network on noise: two images together, each alone, both again; what it does that users should know of.

    Parameters
    ----------
    network, classes : the network, as it is before anything is folded or rounded, and how many logits it owes.
    gradients : whether gradients must reach its input.
    finite : whether its outputs must be finite already, before it is trained.

    Raises InputError naming the member for any output but finite float logits (N, classes), the same twice, and alone
    as in a batch.
    """
    name, inputs = network.member.name, network.normalise(noise(network.member.input_size).to(network.device))
    with torch.random.fork_rng([network.device] if network.device.type == "cuda" else []), _exact(), torch.no_grad():
        together, eps = _with_precision(network, inputs, classes)
        alone = torch.cat([_logits(network, inputs[i : i + 1], classes) for i in range(len(inputs))])
        again = _logits(network, inputs, classes)
        bounded = _all_in_0_to_1(together) and all(
            _all_in_0_to_1(_logits(network, factor * inputs, classes)) for factor in (-1000, 1000)
        )
        if gradients:
            _check_gradients(network, inputs)
    if not together.isfinite().all():
        if finite:
            raise InputError(f"member {name} returns NaN or infinite numbers for noise")
        return None
    largest = together.abs().max()
    for other, tolerance, what in (
        (again, _TOLERANCE, "another output for the same images when it is called again: dropout that is left on, or"
         " noise, or a state that each call changes"),
        (alone, max(_TOLERANCE, 8 * eps), "another output for an image in a batch than alone: statistics of the batch"),
    ):  # fmt: skip
        if not (change := (other - together).abs().max()) <= tolerance * largest:
            share = float(change / largest)
            raise InputError(f"member {name} gives {what} (logits differ by {share:.1g} of the largest)")
    if classes == 1 < together.shape[1]:
        return (
            f"warning: member {name} gives {together.shape[1]} logits, and the data set's one class is taken for the"
            " first of them: dataset.classes names all"
        )
    if classes > 1 and bounded:
        sums_to_1 = bool(((together.sum(1) - 1).abs() <= 1e-3).all())
        what = "returns probabilities" if sums_to_1 else "returns numbers in 0..1 for any image, as a sigmoid does"
        return (
            f"warning: member {name} {what}, not logits: LIME and SmoothGrad explain the softmax of them, which is far"
            f" flatter; return what stands before its {'softmax' if sums_to_1 else 'sigmoid'}, or the logarithm of its"
            " outputs"
        )
    return None


def _all_in_0_to_1(outputs: Tensor) -> bool:
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def noise(size: int) -> Tensor:
    """Two images (2, 3, size, size), float32 in 0..255: coarse squares of colour, below fine noise; always the same."""
    draws = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(2, 3, 4, 4, generator=draws), (size, size), mode="nearest")
    return (coarse + torch.rand(2, 3, size, size, generator=draws)) * 127.5


def _exact() -> AbstractContextManager[None]:
    """GPUs without TF32, in which convolutions differ by a thousandth from one batch size to the next."""
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)


def _with_precision(network: Network, inputs: Tensor, classes: int) -> tuple[Tensor, float]:
    """Logits, and the rounding of the coarsest numbers that a module gave on the way, if coarser than float32's."""
    kinds = set()

    def see(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            kinds.add(output.dtype)

    hook = register_module_forward_hook(see)
    try:
        logits = _logits(network, inputs, classes)
    finally:
        hook.remove()
    coarsest = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    return logits, coarsest if coarsest > torch.finfo(torch.float32).eps else 0.0


def _logits(network: Network, inputs: Tensor, classes: int) -> Tensor:
    """The logits (n, classes), float32; InputError naming a member that fails or gives anything else."""
    try:
        found = logits_of(network.model(network.resized(inputs)))
    except (Exception, SystemExit) as error:  # the user's code raises anything
        _fail(network, inputs, error)
    name, wanted = network.member.name, (len(inputs), classes)
    is_table = found.ndim == 2 and len(found) == len(inputs)
    if found.shape != wanted and not (
        is_table and 1 == classes < found.shape[1]
    ):  # photographs of one class among some
        if is_table:
            advice = "it must be built for them (num_classes), or trained to them with committee.finetune=true"
            advice += other_classes(found.shape[1])
            raise InputError(f"member {name} gives {found.shape[1]} logits for {classes} classes: {advice}")
        raise InputError(f"member {name} gives outputs of shape {list(found.shape)}, logits are {list(wanted)}")
    if not found.is_floating_point():
        raise InputError(f"member {name} gives {str(found.dtype).removeprefix('torch.')}, logits are float32")
    return found.float()


def _fail(network: Network, inputs: Tensor, error: BaseException) -> NoReturn:
    member = network.member
    if isinstance(error, SystemExit):
        reason = own_code.ended(error)
    else:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{own_code.place(error)}"
    count = "images" if len(inputs) > 1 else "one image alone, though not on two,"
    size = f"{list(inputs.shape[:2])[1]} channels of {member.input_size}x{member.input_size} pixels"
    raise InputError(f"member {member.name} fails on {count} of {size}: {reason}{_advice(network)}") from error


def _advice(network: Network) -> str:
    """A clause that says what sizes a network takes that was made for one other than the member's."""
    model, member, size = network.model, network.member, network.member.input_size
    keys = [key for key in ("img_size", "image_size") if key in inspect.signature(type(model).__init__).parameters]
    made = next((member.kwargs[key] for key in keys if key in member.kwargs), None)
    if made is None and member.library != "module":
        made = getattr(model, "image_size", None) or getattr(model, "default_cfg", {}).get("input_size", [None])[-1]
    if made in (None, size):
        return ""
    return "; set " + "".join(f"kwargs: {{{key}: {size}}} or " for key in keys) + f"input_size: {made}"


def _check_gradients(network: Network, inputs: Tensor) -> None:
    """InputError naming a member whose logits have no finite gradient by its input."""
    name, inputs = network.member.name, inputs.clone().requires_grad_()
    try:
        with torch.enable_grad():
            total = network(inputs).sum()
            found = torch.autograd.grad(total, inputs, allow_unused=True)[0] if total.requires_grad else None
    except (Exception, SystemExit) as error:
        _fail(network, inputs, error)
    if found is None:
        raise InputError(
            f"member {name}: no gradient reaches its input, and this explainer needs them: leave out detach() and"
            " no_grad() in its forward"
        )
    if not found.isfinite().all():
        raise InputError(f"member {name} returns NaN as gradient by its input")
