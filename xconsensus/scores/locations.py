"""Boxes of what maps point at, and how well they meet objects.

MaxBoxAcc is that of Choe et al. 2020, "Evaluating weakly supervised object localization methods right", arXiv
2001.07437. Boxes are left, top, right, bottom in whole pixels, of which the last two lie outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from xconsensus.errors import InputError
from xconsensus.published import CENTRED
from xconsensus.scores.metrics import Intervals, mean_over_images

Boxes = NDArray[np.intp]
Floats = NDArray[np.float64]

THRESHOLDS = np.arange(100) / 100  # of MaxBoxAcc
ENOUGH = 0.5  # the IoU from which a box has found the object
_NEIGHBOURS = np.ones((3, 3), dtype=bool)  # all eight


class Object(NamedTuple):
    """An image's object: its box, and how many of its pixels, and of all that count, each explained pixel covers."""

    box: Boxes
    covered: NDArray[np.int32]
    counted: NDArray[np.int32]
    pixels: int

    def iou(self, mask: NDArray[np.bool_]) -> float:
        """Intersection over union with explained pixels ``mask`` (size, size), in pixels of the whole image."""
        shared = int(self.covered[mask].sum())
        return shared / (int(self.counted[mask].sum()) + self.pixels - shared)

    def box_ious(self, boxes: Boxes) -> Floats:
        """IoU of boxes (THRESHOLDS, 4) with that of the object; 0 without boxes."""
        return box_iou(boxes, self.box) if len(boxes) else np.zeros(len(THRESHOLDS))


@dataclass
class Located:
    """What is found of a member, the consensus or the centred box: rows of boxes.csv, annotations of coco.json, and of
    each image with a known object the IoUs of boxes at all thresholds.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    ious: list[Floats] = field(default_factory=list)


def scaled(explanation: ArrayLike) -> Floats:
    """The positive part of a map, its lowest value at 0 and its largest at 1; all 0 where it has one value alone.

    Raises InputError for a map that is not finite.
    """
    values = np.maximum(np.asarray(explanation, dtype=np.float64), 0)
    if not np.isfinite(values).all():
        raise InputError("locations: the map holds NaN or infinite values; drop or recompute it")
    values -= values.min(initial=np.inf)
    top = values.max(initial=0)
    return values / top if top > 0 else values


def otsu(values: Floats) -> float:
    """The lowest of the upper of two classes of values whose means differ most, by the variance between them (Otsu
    1979, doi 10.1109/TSMC.1979.4310076); 1 where there are no two values.
    """
    every, counts = np.unique(values, return_counts=True)
    if len(every) < 2:
        return 1.0
    below, sums = counts.cumsum()[:-1], (every * counts).cumsum()
    above = counts.sum() - below
    between = below * above * ((sums[-1] - sums[:-1]) / above - sums[:-1] / below) ** 2
    return float(every[1:][between.argmax()])


def component(values: Floats, threshold: float) -> NDArray[np.bool_]:
    """The largest connected part of the pixels at or above ``threshold``, the first of equals; all eight neighbours
    connect.

    None in a map (H, W) that is 0 everywhere: it points nowhere.
    """
    if not values.any():
        return np.zeros(values.shape, dtype=bool)
    labels, _ = ndimage.label(values >= threshold, _NEIGHBOURS)
    return np.asarray(labels == np.bincount(labels.ravel())[1:].argmax() + 1)


def bounding_box(mask: NDArray[np.bool_]) -> Boxes:
    """The box (4,) of a mask (H, W) that is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def boxes_at(values: Floats, thresholds: ArrayLike = THRESHOLDS) -> Boxes:
    """The boxes (n, 4) of a map's largest parts at rising thresholds up to 1; none (0, 4) of a map that is 0."""
    ranked, found, last = np.sort(values, axis=None), [], -1
    for threshold in np.asarray(thresholds) if ranked[-1] > 0 else ():
        if (below := int(ranked.searchsorted(threshold))) != last:
            box, last = bounding_box(component(values, threshold)), below
        found.append(box)
    return np.array(found, dtype=np.intp).reshape(-1, 4)


def centred_boxes(shape: tuple[int, int], thresholds: ArrayLike = THRESHOLDS) -> Boxes:
    """Boxes (n, 4) in the middle of an image (H, W), of 1 - threshold of its width and height; at least a pixel."""
    size = np.array(shape[::-1])
    extents = np.maximum(np.round((1 - np.asarray(thresholds))[:, None] * size), 1).astype(np.intp)
    starts = (size - extents) // 2
    return np.hstack([starts, starts + extents])


def box_iou(boxes: Boxes, box: Boxes) -> Floats:
    """Intersection over union (n,) of boxes (n, 4) with one (4,), in 0..1."""
    shared = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
    return np.asarray(shared / union, dtype=np.float64)


def box_accuracy(ious: Floats) -> Floats:
    """The share of images whose box has found the object, over the first axis of IoUs (images, ...)."""
    return np.asarray((ious >= ENOUGH).mean(0))


def max_box_accuracy(ious: Floats) -> tuple[float, int]:
    """MaxBoxAcc of IoUs (images, thresholds): the largest `box_accuracy`, and the place of the first that has it."""
    shares = box_accuracy(ious)
    return float(shares.max()), int(shares.argmax())


_BOX = ("left", "top", "width", "height")


def box_row(boxes: Boxes) -> dict[str, int | None]:
    """The box of an image, or none (0, 4), as cells of boxes.csv."""
    if not len(boxes):
        return dict.fromkeys(_BOX)
    left, top, right, bottom = map(int, boxes[0])
    return dict(zip(_BOX, (left, top, right - left, bottom - top), strict=True))


def boxes_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """boxes.csv: one row an image, of whole pixels; empty cells where there is no box."""
    return pd.DataFrame(rows).astype(dict.fromkeys(_BOX, "Int64"))


def locations_table(found: Mapping[str, Located], intervals: Intervals) -> pd.DataFrame:
    """locations.csv: one row for the consensus, each member and the centred box, this one at its best threshold."""
    columns, rows = [], []
    for name, located in found.items():
        ious = np.array(located.ious)
        best, place = max_box_accuracy(ious)
        own = ious[:, place] if name == CENTRED else np.array([row["box_iou"] for row in located.rows])
        masks = [row["mask_iou"] for row in located.rows]
        columns.append(own)
        rows.append(
            {
                "member": name,
                "without_box": sum(row["left"] is None for row in located.rows),
                "box_iou": own.mean(),
                "box_accuracy": float(box_accuracy(own)),
                "max_box_accuracy": best,
                "best_threshold": THRESHOLDS[place],
                "mask_iou": float(mean_over_images(masks)) if masks else np.nan,
            }
        )
    table = pd.DataFrame(rows)
    low, high = intervals.of(np.stack(columns, axis=1))
    table.insert(3, "box_iou_low", low)
    table.insert(4, "box_iou_high", high)
    return table
