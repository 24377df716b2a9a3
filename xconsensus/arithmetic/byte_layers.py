"""Layers of bytes: a convolution that takes them, and the conversion to them."""

import torch
from torch import Tensor, nn

from xconsensus.arithmetic import onednn
from xconsensus.arithmetic.onednn import Scale


class ToBytes(nn.Module):
    """The conversion to bytes of ``scale``."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        """The nearest bytes, uint8 of the same shape, of float32 values."""
        return onednn.to_bytes(values, self.scale)


class ByteConv2d(nn.Module):
    """A convolution of bytes (N, C, H, W) with its activation, to bytes of the scale ``result``, or to float32."""

    def __init__(self, convolution: nn.Conv2d, activation: str, source: Scale, result: Scale | None) -> None:
        super().__init__()
        self.activation, self.source, self.result = activation, source, result
        weight = convolution.weight.detach().float()
        steps = weight.abs().amax((1, 2, 3)).clamp_min(1e-30) / 127  # one a channel of the result
        self.packed = onednn.pack(convolution, (weight / steps.view(-1, 1, 1, 1)).round().to(torch.int8), steps)
        self.products = weight[0].numel()  # that each number of the result sums up
        self.exact_bias = torch.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach().float()
        self.bias = self.exact_bias
        self.means: Tensor | None = None

    def expect(self, means: Tensor) -> None:
        """Choose the bias at the next call so that the result before the activation has these ``means`` (C,)."""
        self.means, self.bias = means, self.exact_bias

    def forward(self, inputs: Tensor) -> Tensor:
        """uint8 or float32 (N, C', H', W')."""
        if self.means is not None:
            self.bias = self.exact_bias + self.means - self._convolve(inputs, None, "none").mean((0, 2, 3))
            self.means = None
        return self._convolve(inputs, self.result, self.activation)

    def _convolve(self, inputs: Tensor, result: Scale | None, activation: str) -> Tensor:
        return onednn.convolve(inputs, self.source, self.packed, self.bias, result, activation)
