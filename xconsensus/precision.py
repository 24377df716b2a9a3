"""The arithmetic of explanations: 8 or 16 bits where faster, float32 for the head and the softmax; compilation."""

import time
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from xconsensus.committee import head_tensors
from xconsensus.errors import InputError
from xconsensus.int8 import Int8, multiplies_bytes
from xconsensus.network import Network
from xconsensus.progress import log

# what values between layers have; in int8 bytes stand for them
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
_WORTH = 1.1  # fewer bits, or a compiled network, must be that much faster to be taken
_FAITHFUL = 0.05  # the largest error of an 8-bit network's logits on noise; trained ones had half of it at most
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


def check_precision(precision: str, device: torch.device, gradients: bool) -> None:
    """InputError where explanations by ``precision`` cannot be on ``device``, or are of ``gradients``."""
    if precision == "int8" and gradients:
        raise InputError("explain.precision=int8: bytes have no gradients, which this explainer is of; set auto")
    if precision == "int8" and not multiplies_bytes(device):
        raise InputError("explain.precision=int8: this device has no instructions for bytes (VNNI); set float32")


def _in_8_bits(network: Network) -> Int8:
    check_precision("int8", network.device, gradients=False)  # another machine may have chosen it
    size, name = network.member.input_size, network.member.name
    noise = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        return Int8(network.model, noise.contiguous(memory_format=torch.channels_last))
    except Exception as error:  # following the code of any model can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"explain.precision=int8: member {name} cannot compute in 8 bits ({reason})") from error


def _keep_exact(head: nn.Module, device: str) -> None:
    forward = head.forward

    def exact(inputs: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            result: Tensor = forward(inputs.float())
            return result

    head.forward = exact


def fastest(network: Network, size: int) -> str:
    """The precision for forward passes: 8 bits or those 16 that the device computes with, if faster than float32.

    8 bits, if they change the logits of noise by less than a twentieth. Measured on a few images of ``size`` pixels a
    side. Not for gradients: 8 bits have none, and of real networks, SmoothGrad in bfloat16 correlates with that in
    float32 between 0.94 and 0.99 only (docs/benchmarks.md).
    """
    rates = {"float32": images_per_second(network, size, _TRIAL // 4)}
    if half := _native(network.device):
        network.dtype = PRECISIONS[half]
        rates[half] = images_per_second(network, size, _TRIAL // 4)
        network.dtype = torch.float32
    if multiplies_bytes(network.device):
        with suppress(InputError):  # of a network without convolutions, or with code that cannot be followed
            network.faster = rounded = _in_8_bits(network)
            if rounded.error <= _FAITHFUL:
                rates["int8"] = images_per_second(network, size, _TRIAL // 4)
        network.faster = None
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > _WORTH * rates["float32"] else "float32"


def _native(device: torch.device) -> str | None:
    """The 16 bits that the device has instructions for."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


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


def images_per_second(network: Network, size: int, batch_size: int) -> float:
    """Images of ``size`` pixels a side that pass forward through the network a second, the best of two batches."""
    inputs = torch.zeros(batch_size, 3, size, size, device=network.device)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.inference_mode():
            network(inputs)
        if network.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return batch_size / min(seconds[1:])  # the first one warms up
