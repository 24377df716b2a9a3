"""Superpixels: an image in, a label map out. One map an image, shared by every member."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xconsensus.errors import InputError, nearest

SEGMENTERS = ("quickshift", "slic")


def segment(pixels: NDArray[np.uint8], algorithm: str, settings: Mapping[str, Any]) -> NDArray[np.int32]:
    """Label map (H, W) of an RGB uint8 image (H, W, 3), int32, numbered 0..K-1 without gaps.

    ``algorithm`` is scikit-image's quickshift or slic, with its keyword arguments as ``settings``.

    Raises InputError for an unknown algorithm or argument.
    """
    if algorithm not in SEGMENTERS:
        raise InputError(f"explainer.segmenter.name={algorithm} is unknown{nearest(algorithm, SEGMENTERS)}")
    from skimage import segmentation  # half a second to import, and not needed where the superpixels are there

    try:
        labels = np.asarray(getattr(segmentation, algorithm)(pixels, **settings))
        if labels.shape != pixels.shape[:2]:
            raise ValueError("what it returns is no label map")
    except (TypeError, ValueError) as error:
        raise InputError(f"explainer.segmenter: {algorithm} refuses {dict(settings)} ({error})") from error
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
