"""What an explainer is given and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.members.network import Network


@dataclass(frozen=True)
class Image:
    """One image to explain: RGB ``pixels`` uint8 (H, W, 3), ``label``, ``segments`` int (H, W) numbered from 0 when
    the explainer works on superpixels, and ``generator``, a source of random draws seeded by the image alone.
    """

    pixels: NDArray[np.uint8]
    label: int
    generator: Callable[[], torch.Generator]
    segments: Tensor | None = None


@dataclass(frozen=True)
class Explanation:
    """``values`` float32: (K,) a superpixel or (H, W) a pixel; ``predicted`` class on the unperturbed image and its
    softmax ``probability``; ``fields`` are an explainer's own numbers, such as the R2 of LIME's fit.
    """

    values: Tensor
    predicted: int
    probability: float
    fields: Mapping[str, float] = field(default_factory=dict)


class Explainer(Protocol):
    """Explains a network's output on one image; a pure function of its arguments."""

    @property
    def on_superpixels(self) -> bool:
        """Whether an explanation has one value a superpixel (else one a pixel)."""

    def passes(self) -> tuple[int, int]:
        """Forward and backward passes of one explanation."""

    def __call__(self, network: Network, image: Image, batch_size: int) -> Explanation:
        """The explanation; ``batch_size`` bounds memory and does not change the result beyond rounding."""
