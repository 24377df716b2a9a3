"""What an explainer is given and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Classifier(Protocol):
    """What an explainer sees of a member's network, whatever arithmetic it computes in."""

    @property
    def device(self) -> torch.device:
        """Where inputs are expected."""

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (..., 3, H, W) in 0..255 as the member's normalised float32 input of the same shape."""

    def label(self, image: Tensor) -> tuple[int, float]:
        """The predicted class of one normalised image (3, H, W), and its softmax probability, both in float32."""

    def gradients(self, inputs: Tensor, target: int) -> Tensor:
        """Gradient of the softmax probability of class ``target`` by each normalised input, (n, 3, H, W) like them."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits (n, classes), float32, of normalised inputs (n, 3, H, W)."""


@dataclass(frozen=True)
class Image:
    """One image to explain: RGB ``pixels`` uint8 (H, W, 3), ``label`` (of explainer.target=ensemble the committee's
    class), ``segments`` int (H, W) numbered from 0 when the explainer works on superpixels, and ``generator``, a source
    of random draws seeded by the image alone.
    """

    pixels: NDArray[np.uint8]
    label: int
    generator: Callable[[], torch.Generator]
    segments: Tensor | None = None


@dataclass(frozen=True)
class Explanation:
    """``values`` float32: (K,) a superpixel or (H, W) a pixel; ``predicted`` class on the unperturbed image and its
    softmax ``probability``; ``fields`` are an explainer's own numbers, such as the R2 of LIME's fit; ``target`` is the
    class explained, where that is not the predicted one.
    """

    values: Tensor
    predicted: int
    probability: float
    fields: Mapping[str, float] = field(default_factory=dict)
    target: int | None = None


class Explainer(Protocol):
    """Explains a network's output on one image; a pure function of its arguments."""

    @property
    def on_superpixels(self) -> bool:
        """Whether an explanation has one value a superpixel (else one a pixel)."""

    def passes(self) -> tuple[int, int]:
        """Forward and backward passes of one explanation."""

    def __call__(self, network: Classifier, image: Image, batch_size: int) -> Explanation:
        """The explanation; ``batch_size`` bounds memory and does not change the result beyond rounding."""
