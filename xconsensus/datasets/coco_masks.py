"""COCO's segmentations as masks: polygons, run lengths, and run lengths packed into text; and masks as run lengths.

The format is that of the COCO API (Lin et al. 2014); nothing of it is needed here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon


def rasterise(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width) of an annotation's ``segmentation``: a list of polygons, or a run-length object.

    Raises ValueError for anything else, and for run lengths of another size.
    """
    match segmentation:
        case Mapping():
            return _from_run_lengths(segmentation, height, width)
        case list():
            mask = np.zeros((height, width), dtype=bool)
            for corners in segmentation:
                mask |= _inside(corners, height, width)
            return mask
    raise ValueError("the segmentation is neither polygons nor run lengths")


def _inside(corners: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels whose centres lie inside the polygon x1, y1, x2, y2, ...; the centre of the first pixel is (0.5, 0.5)."""
    x_y = np.asarray(corners, dtype=np.float64)
    if x_y.ndim != 1 or x_y.size < 6 or x_y.size % 2 or not np.isfinite(x_y).all():
        raise ValueError("a polygon has fewer than three corners, half of one, or one that is no number")
    mask = np.zeros((height, width), dtype=bool)
    mask[polygon(x_y[1::2] - 0.5, x_y[::2] - 0.5, mask.shape)] = True
    return mask


def _from_run_lengths(segmentation: Mapping[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels off and on in turns, down the columns one after another."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    lengths = np.asarray(unpack(counts) if isinstance(counts, str) else counts)
    pixels = height * width
    right = size == [height, width] and lengths.ndim == 1 and lengths.dtype.kind == "i" and len(lengths) > 0
    if not right or not 0 <= lengths.min() <= lengths.max() <= pixels or lengths.sum() != pixels:
        raise ValueError(f"the run lengths are not those of an image of {width}x{height} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def unpack(text: str) -> list[int]:
    """The run lengths in COCO's text form.

    A number is cut into groups of 5 bits, lowest first, each one character from "0" on; 32 more marks that groups
    follow, and bit 16 of the last group is the sign. From the fourth number on the text holds its difference to the
    number two before. Raises ValueError for text that ends inside a number, and for a number of more than 60 bits.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError("the text of run lengths has a number of more than 60 bits")
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the text of run lengths ends inside a number")
    return lengths


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The run-length object, not packed, of a mask (H, W): what `rasterise` reads, and the COCO API."""
    down = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
    ends = np.flatnonzero(down[1:] != down[:-1])
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}


def annotation(number: int, category: int, box: Sequence[int], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The annotation of an image's one object in COCO's format, as JSON has it.

    ``number`` is the image's and the annotation's, ``category`` the category's, ``box`` left, top, right and bottom in
    pixels, the last two outside of it, ``mask`` (H, W).
    """
    left, top, right, bottom = box
    return {
        "id": number,
        "image_id": number,
        "category_id": category,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "segmentation": run_lengths(mask),
        "iscrowd": 0,
    }
