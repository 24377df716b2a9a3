"""What a consensus owes to its committee: a family alone (Fig. 7), random committees (section 4.5.2) and growing ones
(section 4.5.3).

Images come one at a time, so that memory holds one image's maps of all m members.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.consensus import Similarity
from xconsensus.errors import InputError, nearest
from xconsensus.scores.metrics import (
    AP_WEIGHTS,
    Intervals,
    average_precisions,
    correlation,
    mean_over_images,
    without_spread,
)

Floats = NDArray[np.floating]
Committee = NDArray[np.integer]  # positions of its members among all, each once

# Committees x dimensions evaluated at once: bounds memory where a dimension is a pixel.
_BLOCK = 2**21


def growing_committees(
    images: Iterable[tuple[Floats, NDArray[Any], NDArray[Any] | None]],
    members: int,
    sizes: Iterable[int],
    trials: int = 20,
    seed: int = 0,
    weighted: Callable[[Floats], Floats] = AP_WEIGHTS["signed"],
) -> pd.DataFrame:
    """Mean average precision of random committees of each size (Fig. 8; Li et al. 2023, section 4.5.3).

    Parameters
    ----------
    images : of each image the members' ballots (m, K), whose mean over a committee is its consensus, and as in
        `metrics.average_precision` positives (K,), the pixels inside the object, and counts (K,), the pixels in
        all, or None where a dimension is a pixel.
    members : m.
    sizes : members a committee, each 1..m; repeats are dropped.
    trials : committees a size; the full committee exists once, so size m has one trial.
    seed : of the draws.
    weighted : one of `metrics.AP_WEIGHTS`, which turns each consensus.

    Returns one row a committee: size, trial (0, 1, ...), mean_average_precision, in [0, 1]. Committees are drawn
    without replacement, and each stays the same for all images. Images without an object are left out.

    Raises InputError if no image has an object, or a size is not within 1..m.
    """
    committees = _draw(members, sorted(set(sizes)), trials, seed)
    weights = _weights(members, [chosen for _, _, chosen in committees])
    total, count = np.zeros(len(committees)), 0
    for ballots, inside, pixels in images:
        if not np.any(inside):
            continue
        blocks = np.array_split(weights.astype(ballots.dtype), -(-weights.shape[0] * ballots.shape[1] // _BLOCK))
        total += np.concatenate([average_precisions(weighted(part @ ballots), inside, pixels) for part in blocks])
        count += 1
    if count == 0:
        raise InputError("growing committees: no image has an object mask; choose a data set with masks")
    rows = [(size, trial, ap) for (size, trial, _), ap in zip(committees, total / count, strict=True)]
    return pd.DataFrame(rows, columns=["size", "trial", "mean_average_precision"])


def family_of(families: Sequence[str], names: Sequence[str], wanted: str | list[str] | None) -> list[int]:
    """Positions of the members of one family: ``wanted`` is its name, a list of members, or None, the largest family.

    ``families`` and ``names`` are those of all members. Raises InputError for a family or member that is not there.
    """
    if isinstance(wanted, list):
        for name in wanted:
            if name not in names:
                raise InputError(f"plot.family: the committee has no member {name}{nearest(name, names)}")
        return [names.index(name) for name in wanted]
    if wanted is None:
        wanted = str(pd.Series(families).value_counts(sort=False).idxmax())
    if wanted not in families:
        raise InputError(f"plot.family={wanted}: the committee has no such family{nearest(wanted, families)}")
    return [position for position, family in enumerate(families) if family == wanted]


def extras_of(bounds: Sequence[int], members: int, family: int) -> tuple[int, int]:
    """How many others join a family: ``bounds``, or where the rest is smaller, a third to two thirds of it."""
    low, high = bounds
    rest = members - family
    return (low, high) if high <= rest else (max(1, rest // 3), max(1, 2 * rest // 3))


def random_committees(
    members: int, family: Sequence[int], extras: tuple[int, int] = (10, 20), trials: int = 20, seed: int = 0
) -> list[Committee]:
    """Committees of a family and some others, drawn at random (Li et al. 2023, section 4.5.2).

    Parameters
    ----------
    members : how many there are.
    family : its members' positions, 0..members-1.
    extras : the least and the greatest number of others.
    trials : how many committees.
    seed : of the draws.

    Raises InputError if there are fewer than extras[1] others.
    """
    rest = np.setdiff1d(np.arange(members), family)
    if extras[1] > len(rest):
        raise InputError(
            f"random committees: {extras[1]} members asked for beside the family, {len(rest)} exist; lower plot.extras"
        )
    generator = np.random.default_rng(seed)
    sizes = [generator.integers(extras[0], extras[1] + 1) for _ in range(trials)]
    return [np.concatenate([np.asarray(family), generator.choice(rest, size, replace=False)]) for size in sizes]


def committee_scores(
    images: Iterable[tuple[Tensor, Tensor]], committees: Sequence[Committee], similarity: Similarity
) -> Floats:
    """How similar explanations are to the consensus of each committee: (images, committees, f) float64.

    ``images`` gives the explanations (f, K) and the ballots (m, K) of one image at a time; the mean over the images
    is a consensus score. NaN of explanations without spread. Raises InputError if there is no image.
    """
    scores = []
    for explanations, ballots in images:
        weights = torch.from_numpy(_weights(len(ballots), committees))
        found = similarity.to_means(explanations.double(), ballots.double(), weights).numpy()
        scores.append(np.where(without_spread(explanations), np.nan, found))
    if not scores:
        raise InputError("committees: no image to vote on; explain some images first")
    return np.stack(scores)


def agreement(scores: Floats, complete: Floats, committees: Sequence[Committee]) -> pd.DataFrame:
    """Do consensus scores survive a change of committee? One row a committee: trial, size, pearson_r, spearman_r.

    Correlates the scores (f,) of each committee, a row of ``scores`` (t, f), with those under the complete one.
    """
    found = [correlation(score, complete) for score in scores]
    rows = [(i, len(committees[i]), each.pearson_r, each.spearman_r) for i, each in enumerate(found)]
    return pd.DataFrame(rows, columns=["trial", "size", "pearson_r", "spearman_r"])


def family_scores(names: Sequence[str], scores: Mapping[str, Floats], intervals: Intervals) -> pd.DataFrame:
    """Consensus scores of a family's members (f) by several votes, each with similarities (images, f).

    One row a vote and member: vote, member, consensus_score, consensus_score_low, consensus_score_high.
    """
    parts = []
    for vote, similarities in scores.items():
        low, high = intervals.of(similarities)
        mean = mean_over_images(similarities)
        columns = {"consensus_score": mean, "consensus_score_low": low, "consensus_score_high": high}
        parts.append(pd.DataFrame({"vote": vote, "member": names, **columns}))
    return pd.concat(parts, ignore_index=True)


def _draw(members: int, sizes: Sequence[int], trials: int, seed: int) -> list[tuple[int, int, Committee]]:
    committees: list[tuple[int, int, Committee]] = []
    for size in sizes:
        if not 1 <= size <= members:
            raise InputError(f"growing committees: size {size} of {members} members; choose 1..{members}")
        # Seeded by size too: adding a size to the list leaves the other committees as they were.
        generator = np.random.default_rng([seed, size])
        committees += [
            (size, trial, generator.choice(members, size, replace=False))
            for trial in range(1 if size == members else trials)
        ]
    return committees


def _weights(members: int, committees: Sequence[Committee]) -> Floats:
    """(t, m) matrix whose product with ballots (m, K) is each committee's consensus."""
    weights = np.zeros((len(committees), members))
    for row, chosen in zip(weights, committees, strict=True):
        row[chosen] = 1 / len(chosen)
    return weights
