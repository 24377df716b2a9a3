"""Which arithmetic an explanation takes: what explain.precision asks for, or by rule what the device does best."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from xconsensus.arithmetic.byte_layers import ByteConv2d, ToBytes
from xconsensus.arithmetic.fewer_bits import HALVES, FewerBits, in_precision, noise
from xconsensus.arithmetic.int8 import Int8
from xconsensus.arithmetic.onednn import multiplies_bytes
from xconsensus.errors import InputError
from xconsensus.members.network import Network

PRECISIONS = ("float32", *HALVES, "int8")
_FAITHFUL = 0.05  # the largest error of logits of noise by fewer bits; in int8 trained networks had half of it at most
_WORTH = 100  # products of bytes for each number converted, where bytes begin to pay (docs/benchmarks.md)


def check_precision(precision: str, device: torch.device, allowed: Collection[str]) -> None:
    """InputError where explanations by ``precision`` cannot be: by 8 bits, unless ``allowed`` by the explainer."""
    if precision == "int8" and "int8" not in allowed:
        raise InputError("explain.precision=int8: this explainer cannot take network outputs of 8 bits; set auto")
    if precision == "int8" and not multiplies_bytes(device):
        raise InputError("explain.precision=int8: this device has no instructions for bytes (VNNI); set float32")


def by_rule(network: Network, allowed: Collection[str], classes: int) -> Network | FewerBits:
    """The network in the arithmetic that follows from its device and itself alone, and never from a clock.

    That of `native`, where the explainer has ``allowed`` it, it changes the logits of noise by at most a twentieth,
    and, of bytes, there is enough to multiply for what is converted to them. Else float32.
    """
    precision = native(network.device)
    if precision not in allowed:
        return network
    try:
        found = in_precision(network, precision, classes)
    except InputError:  # of a network without convolutions, or with code that cannot be followed
        return network
    assert isinstance(found, FewerBits)
    if isinstance(found.rounded.model, Int8) and products_a_conversion(found.rounded.model, noise(network)) < _WORTH:
        return network
    return found if _error(found) <= _FAITHFUL else network


def native(device: torch.device) -> str:
    """The arithmetic that a device is fastest in: float16 on GPUs that have instructions for it (from CUDA's compute
    capability 7.0 on), with steps an eighth of bfloat16's; int8 on a CPU that has them; else float32.
    """
    if device.type == "cuda":
        return "float16" if torch.cuda.get_device_capability(device) >= (7, 0) else "float32"
    return "int8" if multiplies_bytes(device) else "float32"


def trained_in(device: torch.device) -> str:
    """The arithmetic that training takes by rule: on GPUs bfloat16 where they have instructions for it, torch's
    emulation is no such, else float16 as `native` says; float32 on a CPU.
    """
    if device.type != "cuda":
        return "float32"
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else native(device)


def products_a_conversion(model: Int8, inputs: Tensor) -> float:
    """How many products of bytes the model computes for each number that it converts to a byte.

    Small channels, shuffles, sums and gates between convolutions lower it: their results are float32.
    """
    counts = {"products": 0, "conversions": 0}

    def count(module: nn.Module, _: object, result: Tensor) -> None:
        if isinstance(module, ByteConv2d):
            counts["products"] += result.numel() * module.products
        elif isinstance(module, ToBytes):
            counts["conversions"] += result.numel()

    hooks = [module.register_forward_hook(count) for module in model.rounded.modules()]
    with torch.inference_mode():
        model(inputs[:1])
    for hook in hooks:
        hook.remove()
    return counts["products"] / max(1, counts["conversions"])


def _error(network: FewerBits) -> float:
    """How far the logits of noise are from those in float32, relative to them, by their norms; NaN beyond range."""
    inputs = noise(network.network)
    with torch.inference_mode():
        exact = network.network(inputs)
        return float((network.rounded(inputs) - exact).norm() / exact.norm())
