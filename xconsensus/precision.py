"""The arithmetic of explanations: 16 bits where that is faster, float32 for the head and the softmax; compilation."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from xconsensus.committee import head_tensors
from xconsensus.network import Network
from xconsensus.progress import log

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WORTH = 1.1  # 16 bits, or a compiled network, must be that much faster to be taken
_COMPILE_SECONDS = 60.0  # what compiling takes, on the safe side
_TRIAL = 16  # images; of the choice of precision, which is between factors of two, a quarter


def set_precision(network: Network, precision: str, classes: int) -> None:
    """Let the network compute in ``precision``, in place: float32 | bfloat16 | float16.

    Convolutions and matrix products take 16 bits; the head, from whose logits the softmax follows, stays in float32.
    """
    network.dtype = PRECISIONS[precision]
    if network.dtype == torch.float32:
        return
    modules = dict(network.model.named_modules())
    for name in {key.rpartition(".")[0] for key in head_tensors(network.member, classes)}:
        if name:  # a head of a model that is one single layer is the model
            _keep_exact(modules[name], network.device.type)


def _keep_exact(head: nn.Module, device: str) -> None:
    forward = head.forward

    def exact(inputs: Tensor) -> Tensor:
        with torch.autocast(device, enabled=False):
            result: Tensor = forward(inputs.float())
            return result

    head.forward = exact


def fastest(network: Network, size: int) -> str:
    """The precision for forward passes: the 16 bits that the device computes with, if they are faster than float32.

    Measured on a few images of ``size`` pixels a side. Not for gradients: of real networks, SmoothGrad in bfloat16
    correlates with that in float32 between 0.94 and 0.99 only (docs/benchmarks.md).
    """
    if (half := _native(network.device)) is None:
        return "float32"
    rates = {}
    for precision in ("float32", half):
        network.dtype = PRECISIONS[precision]
        rates[precision] = images_per_second(network, size, _TRIAL // 4)
    network.dtype = torch.float32
    return half if rates[half] > _WORTH * rates["float32"] else "float32"


def _native(device: torch.device) -> str | None:
    """The 16 bits that the device has instructions for."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


def compile_if_worth(network: Network, size: int, batch_size: int, passes: int) -> bool:
    """Compile the network for batches of ``batch_size``, if ``passes`` forward passes pay for it; whether it was.

    Only for passes under `torch.inference_mode`: weights become constants of the compiled code. Where compiling fails
    or does not make the network faster it stays as it was.
    """
    try:
        import torch._inductor.config

        if passes / images_per_second(network, size, min(batch_size, _TRIAL)) < 5 * _COMPILE_SECONDS:
            return False
        before = images_per_second(network, size, batch_size)
        with torch._inductor.config.patch(freezing=True):
            network.compiled = Padded(torch.compile(network.model, dynamic=False), batch_size)
            faster = images_per_second(network, size, batch_size) > _WORTH * before
    except Exception as error:  # a compiler that is missing, code it cannot follow, too little memory: nearly anything
        log.info(f"{network.member.name}: not compiled ({(str(error).splitlines() or [type(error).__name__])[0]})")
        faster = False
    if not faster:
        network.compiled = None
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
