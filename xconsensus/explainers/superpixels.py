"""Superpixels: an image in, a label map out. One map an image, shared by every member."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xconsensus.errors import InputError, nearest
from xconsensus.explainers.quickshift import quickshift


def _slic(pixels: NDArray[np.uint8], **settings: Any) -> NDArray[Any]:
    from skimage.segmentation import slic  # a third of a second to import, and seldom asked for

    return np.asarray(slic(pixels, **settings))


SEGMENTERS: Mapping[str, Callable[..., NDArray[Any]]] = {"quickshift": quickshift, "slic": _slic}


def segment(pixels: NDArray[np.uint8], algorithm: str, settings: Mapping[str, Any]) -> NDArray[np.int32]:
    """Label map (H, W) of an RGB uint8 image (H, W, 3), int32, numbered 0..K-1 without gaps.

    ``algorithm`` is quickshift (`xconsensus.explainers.quickshift`) or slic, as scikit-image has it, with its keyword
    arguments as ``settings``.

    Raises InputError for an unknown algorithm or argument.
    """
    if algorithm not in SEGMENTERS:
        raise InputError(f"explainer.segmenter.name={algorithm} is unknown{nearest(algorithm, SEGMENTERS)}")
    try:
        labels = SEGMENTERS[algorithm](pixels, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"explainer.segmenter: {algorithm} refuses {dict(settings)} ({error})") from error
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
