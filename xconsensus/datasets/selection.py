"""Which images a committee explains."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from xconsensus.datasets import Record
from xconsensus.errors import InputError
from xconsensus.seeding import generator

ONLY_CORRECT = ("all", "any", "none")
SAMPLES = ("first", "random")


def right_images(correct: NDArray[np.bool_], only_correct: str) -> NDArray[np.bool_]:
    """Images (n,) to keep, of correct predictions (members, n): those that all | any members get right, or every one.

    Raises InputError for another word.
    """
    match only_correct:
        case "all":
            return np.asarray(correct.all(0))
        case "any":
            return np.asarray(correct.any(0))
        case "none":
            return np.ones(correct.shape[1], dtype=bool)
    raise InputError(f"explain.only_correct={only_correct} is none of {', '.join(ONLY_CORRECT)}")


def choose(
    records: Sequence[Record], sample: str, images: int | None, per_class: int | None, seed: int
) -> list[Record]:
    """Images spread over the classes, in the order of ``records``: class after class gives one in turn.

    Where there are fewer images than classes, ``first`` ones are of classes spread evenly over the sorted labels, and
    random ones of classes drawn by the seed.

    Parameters
    ----------
    records : the images to choose from.
    sample : whether a class gives its ``first`` or a ``random`` one of those it has left.
    images, per_class : at most so many, in all and of one class; None = no limit.
    seed : of random ones.

    Raises InputError for another ``sample``.
    """
    if sample not in SAMPLES:
        raise InputError(f"explain.sample={sample} is none of {', '.join(SAMPLES)}")
    order = list(range(len(records)))
    if images is not None and sample == "first":
        giving = _evenly(sorted({record.label for record in records}), images)
        order = [index for index in order if records[index].label in giving]
    if sample == "random":
        order = torch.randperm(len(records), generator=generator(seed, "sample")).tolist()
    turns: defaultdict[int, int] = defaultdict(int)
    ranked = []
    for rank, index in enumerate(order):
        label = records[index].label
        if per_class is None or turns[label] < per_class:
            ranked.append((turns[label], rank if sample == "random" else label, index))
        turns[label] += 1
    chosen = sorted(index for *_, index in sorted(ranked)[: images if images is not None else len(ranked)])
    return [records[index] for index in chosen]


def _evenly(labels: Sequence[int], count: int) -> set[int]:
    """At most ``count`` of the labels (n,): the middle ones of as many parts of equal length."""
    n = len(labels)
    return {labels[(2 * part + 1) * n // (2 * count)] for part in range(count)} if count < n else {*labels}
