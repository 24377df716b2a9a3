"""Xception with the pointwise convolution first, as PaddleClas has it; timm's begins with the depthwise one.

Chollet 2017 (arXiv:1610.02357); ``ppcls/arch/backbone/model_zoo/xception.py`` of PaddleClas (Apache-2.0).
"""

from collections.abc import Sequence

from torch import Tensor, nn


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    depthwise = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(pointwise, nn.BatchNorm2d(outputs), depthwise, nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """Separable convolutions beside a shortcut; of two of them a pooled one, with a projection."""

    def __init__(self, inputs: int, widths: Sequence[int], stride: int = 1, relu_first: bool = True) -> None:
        super().__init__()
        pooled = len(widths) == 2
        self.shortcut = nn.Conv2d(inputs, widths[-1], 1, stride, bias=False) if pooled else nn.Identity()
        self.layers = nn.ModuleList(map(_separable, (inputs, *widths), widths))
        self.pool = nn.MaxPool2d(3, stride, 1) if pooled else nn.Identity()
        self.relu_first = relu_first

    def forward(self, inputs: Tensor) -> Tensor:
        found = inputs
        for place, layer in enumerate(self.layers):
            found = layer(found.relu() if place or self.relu_first else found)
        total: Tensor = self.pool(found) + self.shortcut(inputs)
        return total


def _stem(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def xception(entry: int, middle: int, num_classes: int) -> nn.Module:
    """Xception of 3 or 5 ``entry`` blocks and 8 or 16 in the ``middle``: 41, 65 and 71 layers."""
    widths, strides = ((128, 256, 728), (2, 2, 2)) if entry == 3 else ((128, 256, 256, 728, 728), (2, 1, 2, 1, 2))
    inputs = (64, *widths)
    first = [_Block(inputs[i], (width, width), strides[i], relu_first=i > 0) for i, width in enumerate(widths)]
    last = [_separable(1024, 1536), nn.ReLU(), _separable(1536, 2048), nn.ReLU()]
    return nn.Sequential(
        *(_stem(3, 32, 2), _stem(32, 64, 1), *first, *(_Block(728, (728,) * 3) for _ in range(middle))),
        *(_Block(728, (728, 1024), 2), *last, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, num_classes)),
    )
