"""Inception v4 as PaddleClas has it: timm's with kernels swapped and the pooled branch first.

Szegedy et al. 2017 (arXiv:1602.07261); ``ppcls/arch/backbone/model_zoo/inception_v4.py`` of PaddleClas (Apache-2.0).
"""

from xconsensus.compat import torchvision  # noqa: F401

# isort: split
# timm imports torchvision
from typing import Any

import torch
from timm.models.inception_v4 import InceptionV4
from torch import Tensor, nn


def inception_v4(**kwargs: Any) -> nn.Module:
    """Inception v4 with batch normalisation's usual epsilon."""
    model: nn.Module = InceptionV4(norm_eps=1e-5, **kwargs)
    blocks: Any = model.features
    _swap(*blocks[4].branch1[1:3])
    for place in range(11, 18):
        _swap(*blocks[place].branch2[1:5])
    for place in range(19, 22):
        _swap(blocks[place].branch2_1, blocks[place].branch2_2)
    for place in range(6, 22):
        blocks[place] = (_PooledFirst if place < 19 else _Last)(blocks[place])
    return model


def _swap(*layers: Any) -> None:
    """Turn kernels of n x 1 into 1 x n and the other way round."""
    for layer in layers:
        old = layer.conv
        tall, wide = old.kernel_size
        size, padding = (wide, tall), (wide // 2, tall // 2)
        layer.conv = nn.Conv2d(old.in_channels, old.out_channels, size, padding=padding, bias=False)


class _Rewired(nn.Module):
    """The layers of a block of timm, to be put together in another way."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)


class _PooledFirst(_Rewired):
    """The branches joined with the last one, the pooled one, in front."""

    def forward(self, inputs: Tensor) -> Tensor:
        *others, pooled = self.children()
        return torch.cat([branch(inputs) for branch in (pooled, *others)], 1)


class _Last(_Rewired):
    """A block of the last kind, in which two branches have two ends each."""

    def forward(self, inputs: Tensor) -> Tensor:
        layer = dict(self.named_children())
        one = layer["branch1_0"](inputs)
        two = layer["branch2_2"](layer["branch2_1"](layer["branch2_0"](inputs)))
        ends = [layer["branch1_1a"](one), layer["branch1_1b"](one), layer["branch2_3a"](two), layer["branch2_3b"](two)]
        return torch.cat([layer["branch3"](inputs), layer["branch0"](inputs), *ends], 1)
