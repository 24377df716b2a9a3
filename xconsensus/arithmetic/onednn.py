"""All of torch that it does not promise to keep, used nowhere else: operators of bytes, which oneDNN computes.

Without the convolutions of bytes, `multiplies_bytes` is false of every device: `explain.precision=auto` takes float32,
and int8 is refused. The conversion to bytes and the sum with a ReLU have slower forms in operators that stay.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 255  # the largest byte

warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)  # that it is to be removed


def multiplies_bytes(device: torch.device) -> bool:
    """Whether the device has instructions for bytes (VNNI, AMX), and torch uses them; results overflow without."""
    abilities = ("_is_vnni_supported", "_is_amx_tile_supported")
    has = any(getattr(torch.cpu, ability, lambda: False)() for ability in abilities)
    operators = all(hasattr(torch.ops.onednn, name) for name in ("qconv_prepack", "qconv2d_pointwise"))
    return device.type == "cpu" and has and operators


@dataclass
class Scale:
    """What a tensor's bytes stand for: (byte - zero) * step."""

    step: float = 1.0
    zero: int = 0

    def cover(self, low: float, high: float) -> None:
        """Let bytes reach from ``low`` to ``high``, and have 0 among their values, which padding needs."""
        low, high = min(low, 0.0), max(high, 0.0)
        self.step = max((high - low) / _LEVELS, 1e-30)
        self.zero = round(-low / self.step)


class Packed(NamedTuple):
    """A convolution for oneDNN: int8 weights in its own order, in ``steps`` (C',); strides, paddings and dilations."""

    weight: Tensor
    steps: Tensor
    geometry: list[list[int]]
    groups: int


def pack(convolution: nn.Conv2d, weight: Tensor, steps: Tensor) -> Packed:
    """The convolution with int8 ``weight`` (C', C / groups, h, w), in float32 ``steps`` (C',), in place of its own."""
    sizes = (convolution.stride, convolution.padding, convolution.dilation)
    geometry, groups = [[int(size) for size in each] for each in sizes], convolution.groups
    # the step and zero of inputs given here decide nothing: they are given anew with each call
    packed = torch.ops.onednn.qconv_prepack(weight, steps, 1.0, 1, *geometry, groups, None)
    return Packed(packed, steps, geometry, groups)


def convolve(
    inputs: Tensor, source: Scale, packed: Packed, bias: Tensor, result: Scale | None, activation: str
) -> Tensor:
    """A convolution of bytes with its activation.

    Parameters
    ----------
    inputs : uint8 (N, C, H, W), channels last.
    source : what they stand for.
    packed : the convolution.
    bias : float32 (C',).
    result : what the bytes to give stand for, or None for float32.
    activation : none, relu, hardtanh (from 0 to 6), swish or hardswish, as oneDNN names them.

    Returns uint8 or float32 (N, C', H', W').
    """
    weight, steps, geometry, groups = packed
    kind = torch.float32 if result is None else torch.uint8
    result = result or Scale()
    found: Tensor = torch.ops.onednn.qconv2d_pointwise(
        *(inputs, source.step, source.zero, weight, steps, torch.zeros(len(steps), dtype=torch.int64), bias),
        *(*geometry, groups, result.step, result.zero, kind),
        *(activation, [0.0, 6.0] if activation == "hardtanh" else [], ""),
    )
    return found


def in_one_pass(values: Tensor, scale: Scale) -> Tensor:
    """The nearest bytes, uint8 of the same shape, of float32 values."""
    packed = torch.quantize_per_tensor(values, scale.step, scale.zero, torch.quint8)
    return torch.empty(0, dtype=torch.uint8).set_(packed.untyped_storage(), 0, packed.shape, packed.stride())


def in_three_passes(values: Tensor, scale: Scale) -> Tensor:
    """The same in four times as long, by operators that stay."""
    half_up = torch.tensor(scale.zero + 0.5)  # conversion to bytes rounds down
    return torch.add(half_up, values, alpha=1 / scale.step).clamp_(0, _LEVELS).to(torch.uint8)


to_bytes = in_one_pass if hasattr(torch, "quantize_per_tensor") else in_three_passes


def add_to(own: Tensor, other: Tensor | float, relu: bool) -> Tensor:
    """The sum, or its ReLU, in place of ``own`` if that holds it: a new tensor takes longer than the addition."""
    if not isinstance(other, Tensor) or other.dtype != own.dtype or other.shape != own.shape:
        return F.relu(own + other) if relu else own + other
    if relu and hasattr(torch.ops.aten, "_add_relu_"):
        return torch.ops.aten._add_relu_(own, other)  # type: ignore[no-any-return]
    return own.add_(other).relu_() if relu else own.add_(other)
