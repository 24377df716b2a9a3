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

    Where a round, the first or a later one, has more classes than images are still wanted, ``first`` ones are of
    classes spread evenly over the round's sorted labels, and random ones of classes drawn by the seed.

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
    if sample == "random":
        order = torch.randperm(len(records), generator=generator(seed, "sample")).tolist()
    turns: defaultdict[int, int] = defaultdict(int)
    rounds: defaultdict[int, dict[int, int]] = defaultdict(dict)  # of each, label -> image, in the order of their draw
    for index in order:
        label = records[index].label
        rounds[turns[label]][label] = index
        turns[label] += 1
    chosen: list[int] = []
    for number in range(len(rounds) if per_class is None else min(per_class, len(rounds))):
        giving = rounds[number]
        wanted = len(giving) if images is None else min(images - len(chosen), len(giving))
        labels = _evenly(sorted(giving), wanted) if sample == "first" else [*giving][:wanted]
        chosen += [giving[label] for label in labels]
    return [records[index] for index in sorted(chosen)]


def _evenly(labels: Sequence[int], count: int) -> list[int]:
    """``count`` of the labels (n,): the middle ones of as many parts of equal length."""
    return [labels[(2 * part + 1) * len(labels) // (2 * count)] for part in range(count)]
