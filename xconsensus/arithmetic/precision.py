"""The arithmetic of explanations: 8 or 16 bits where faster, float32 for the head and the softmax; compilation."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress

import torch
from torch import Tensor, nn

from xconsensus.arithmetic.int8 import Int8
from xconsensus.arithmetic.onednn import multiplies_bytes
from xconsensus.errors import InputError
from xconsensus.members.network import Network
from xconsensus.members.weights import head_tensors
from xconsensus.progress import log

# what values between layers have; in int8 bytes stand for them
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
_WORTH = 1.1  # fewer bits, or a compiled network, must be that much faster to be taken
_FAITHFUL = 0.05  # the largest error of logits of noise by fewer bits; in int8 trained networks had half of it at most
_COMPILE_SECONDS = 60.0  # what compiling takes, on the safe side
_TRIAL = 16  # images; of the choice of precision, which is between factors of two, a quarter


def set_precision(network: Network, precision: str, classes: int) -> None:
    """Let the network compute in ``precision``, in place: float32 | bfloat16 | float16 | int8, forward passes alone.

    Convolutions and matrix products take 16 bits, or convolutions 8 (see `Int8`); the head, from whose logits the
    softmax follows, stays in float32. Raises InputError where the device or the network cannot.
    """
    network.dtype = PRECISIONS[precision]
    if precision == "int8":
        network.faster = _in_8_bits(network)
    if network.dtype == torch.float32:
        return
    modules = dict(network.model.named_modules())
    for name in {key.rpartition(".")[0] for key in head_tensors(network.member, classes)}:
        if name:  # a head of a model that is one single layer is the model
            _keep_exact(modules[name], network.device.type)


def check_precision(precision: str, device: torch.device, allowed: Collection[str]) -> None:
    """InputError where explanations by ``precision`` cannot be: by 8 bits, unless ``allowed`` by the explainer."""
    if precision == "int8" and "int8" not in allowed:
        raise InputError("explain.precision=int8: this explainer cannot take network outputs of 8 bits; set auto")
    if precision == "int8" and not multiplies_bytes(device):
        raise InputError("explain.precision=int8: this device has no instructions for bytes (VNNI); set float32")


def _in_8_bits(network: Network) -> Int8:
    check_precision("int8", network.device, ["int8"])  # another machine may have chosen it
    try:
        return Int8(network.model, _noise(network))
    except Exception as error:  # following the code of any model can raise nearly anything
        reason, name = (str(error).splitlines() or [type(error).__name__])[0], network.member.name
        raise InputError(f"explain.precision=int8: member {name} cannot compute in 8 bits ({reason})") from error


def _noise(network: Network) -> Tensor:
    """Inputs (4, 3, H, W), float32, that say nothing, to try a network on."""
    size = network.member.input_size
    noise = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(network.device).contiguous(memory_format=torch.channels_last)


def _keep_exact(head: nn.Module, device: str) -> None:
    forward = head.forward

    def exact(inputs: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            result: Tensor = forward(inputs.float())
            return result

    head.forward = exact


def fastest(network: Network, size: int, gradients: bool, allowed: Collection[str]) -> str:
    """The precision for forward passes, or for ``gradients``: one of those ``allowed``, or float32.

    It is one that the device computes with, that is faster, on a few images of ``size`` pixels a side, and that changes
    the logits of noise by less than a twentieth.
    """
    if not (candidates := [each for each in _native(network.device) if each in allowed]):
        return "float32"
    rates = {"float32": images_per_second(network, size, _TRIAL // 4, gradients)}
    for precision in candidates:
        # suppressed: of a network without convolutions, or with code that cannot be followed
        with (
            suppress(InputError),
            network.computing(PRECISIONS[precision], _in_8_bits(network) if precision == "int8" else None),
        ):
            if _error(network) <= _FAITHFUL:
                rates[precision] = images_per_second(network, size, _TRIAL // 4, gradients)
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > _WORTH * rates["float32"] else "float32"


def _native(device: torch.device) -> list[str]:
    """The fewer bits that the device has instructions for; of a GPU float16, with steps an eighth of bfloat16's."""
    if device.type == "cuda":
        return ["float16"]
    has = {
        "bfloat16": device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "float16": device.type == "cpu" and torch.cpu._is_amx_fp16_supported(),
        "int8": multiplies_bytes(device),
    }
    return [precision for precision, native in has.items() if native]


def _error(network: Network) -> float:
    """How far the logits of noise are from those in float32, relative to them, by their norms; NaN beyond range."""
    noise = _noise(network)
    with torch.inference_mode():
        exact = network.exactly(noise)
        return float((network(noise) - exact).norm() / exact.norm())


def compile_if_worth(network: Network, size: int, batch_size: int, passes: int) -> bool:
    """Compile the network for batches of ``batch_size``, if ``passes`` forward passes pay for it; whether it was.

    Only for passes under `torch.inference_mode`: weights become constants of the compiled code. Where compiling fails
    or does not make the network faster it stays as it was, as does one in 8 bits.
    """
    if isinstance(network.faster, Int8):
        return False
    try:
        import torch._inductor.config

        if passes / images_per_second(network, size, min(batch_size, _TRIAL)) < 5 * _COMPILE_SECONDS:
            return False
        before = images_per_second(network, size, batch_size)
        with torch._inductor.config.patch(freezing=True):
            network.faster = Padded(torch.compile(network.model, dynamic=False), batch_size)
            faster = images_per_second(network, size, batch_size) > _WORTH * before
    except Exception as error:  # a compiler that is missing, code it cannot follow, too little memory: nearly anything
        log.info(f"{network.member.name}: not compiled ({(str(error).splitlines() or [type(error).__name__])[0]})")
        faster = False
    if not faster:
        network.faster = None
    return faster


class Padded:
    """Calls a compiled network with batches of one size: another one would compile it again."""

    def __init__(self, run: Callable[[Tensor], Tensor], batch_size: int) -> None:
        self.run, self.batch_size = run, batch_size

    def __call__(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        if count < self.batch_size:
            padding = inputs.new_zeros(self.batch_size - count, *inputs.shape[1:])
            inputs = torch.cat([inputs, padding]).contiguous(memory_format=torch.channels_last)
        return self.run(inputs)[:count]


def images_per_second(network: Network, size: int, batch_size: int, gradients: bool = False) -> float:
    """Images of ``size`` pixels a side a second, forward or to ``gradients`` and back, the best of two batches."""
    inputs = torch.zeros(batch_size, 3, size, size, device=network.device, requires_grad=gradients)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.inference_mode(not gradients):
            logits = network(inputs)
            if gradients:
                torch.autograd.grad(logits.sum(), inputs)
        if network.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return batch_size / min(seconds[1:])  # the first one warms up
