"""What a consensus owes to its committee: a family alone (Fig. 7), random committees (section 4.5.2), growing ones
(section 4.5.3), and such as members of random weights dilute (section 5.1).

Images come one at a time, so that memory holds one image's maps of all m members.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
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
        total += _of_each(weights, ballots, lambda maps: average_precisions(weighted(maps), inside, pixels))  # noqa: B023
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


def diluted_committees(
    trained: Sequence[int], random: Sequence[int], shares: Iterable[float], trials: int = 20, seed: int = 0
) -> list[tuple[int, Committee]]:
    """Trial and voters of committees of which a share are random members (Li et al. 2023, section 5.1).

    The same number of trained members votes at every share: as many as the random ones suffice for at the largest. In
    a trial they stay the same, and a larger share keeps the random ones of a smaller: only dilution differs.

    Parameters
    ----------
    trained, random : positions of the members with trained and with random weights.
    shares : of the random members among the voters, each at least 0 and below 1, to the nearest whole member.
    trials : draws of the members.
    seed : of the draws.

    Raises InputError for a share that is none, or one that the random members do not suffice for.
    """
    wanted = sorted(set(shares))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < 1:
        raise InputError(f"score.shares={wanted}: give shares of at least 0 and below 1")
    odds = [share / (1 - share) for share in wanted]
    voters = min(len(trained), int(len(random) / odds[-1] + 1e-9)) if odds[-1] else len(trained)
    if voters < 1:
        raise InputError(
            f"score.shares: {wanted[-1]} needs {math.ceil(odds[-1] - 1e-9)} random members beside one trained, there"
            f" are {len(random)} beside {len(trained)}; raise committee.random_members or lower the share"
        )
    counts = dict.fromkeys(round(voters * each) for each in odds)
    found = []
    for trial in range(trials):
        generator = np.random.default_rng([seed, trial])
        own, others = generator.permutation(trained)[:voters], generator.permutation(random)
        found += [(trial, np.concatenate([own, others[:count]]).astype(int)) for count in counts]
    return found


def dilution(
    images: Iterable[tuple[Floats, NDArray[Any] | None, NDArray[Any] | None]],
    random: Sequence[int],
    committees: Sequence[Committee],
    weighted: Callable[[Floats], Floats] = AP_WEIGHTS["signed"],
) -> pd.DataFrame:
    """How good and how constant each committee's consensus is, the mean over the images; one row a committee.

    Parameters
    ----------
    images : ballots (m, K), and positives and counts as `growing_committees` has them; positives None without masks.
    random : positions of the random members.
    committees : who votes.
    weighted : one of `metrics.AP_WEIGHTS`, which turns each consensus.

    Returns mean_average_precision, of images with an object; `entropy` and `spread` of the consensus; and random_part,
    the share of random members' ballots in the sum of all.
    """
    totals, counts = np.zeros((4, len(committees))), np.zeros((4, 1))
    for ballots, inside, pixels in images:
        weights = _weights(len(ballots), committees)
        sums = weights * ballots.sum(1)
        part = np.divide(sums[:, random].sum(1), sums.sum(1), out=np.zeros(len(sums)), where=sums.sum(1) != 0)
        measured = [_of_each(weights, ballots, entropy), _of_each(weights, ballots, spread), part]
        totals[1:], counts[1:] = totals[1:] + measured, counts[1:] + 1
        if inside is not None and inside.any():
            totals[0] += _of_each(weights, ballots, lambda maps: average_precisions(weighted(maps), inside, pixels))  # noqa: B023
            counts[0] += 1
    means = np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)
    return pd.DataFrame(means.T, columns=["mean_average_precision", "entropy", "spread", "random_part"])


def entropy(maps: Floats) -> Floats:
    """Shannon entropy of maps (n, K), each divided by its sum, by its largest value, log K: (n,), 1 of constant maps.

    NaN of maps with values below 0, which are no shares, and where K is 1.
    """
    sums = maps.sum(1, keepdims=True)
    shares = np.divide(maps, sums, out=np.full_like(maps, 1 / maps.shape[1]), where=sums > 0)
    if maps.shape[1] == 1:
        return np.full(len(maps), np.nan)
    found = stats.entropy(shares, axis=1) / np.log(maps.shape[1])
    return np.asarray(np.where((maps < 0).any(1), np.nan, found))


def spread(maps: Floats) -> Floats:
    """Standard deviation by mean of maps (n, K): (n,), 0 of constant maps."""
    deviation, mean = maps.std(1), maps.mean(1)
    return np.asarray(np.divide(deviation, mean, out=np.zeros_like(mean), where=deviation > 0))


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


def _of_each(weights: Floats, ballots: Floats, measure: Callable[[Floats], Floats]) -> Floats:
    """What is measured (t,) of the consensuses, weights (t, m) @ ballots (m, K), some at a time."""
    blocks = np.array_split(weights.astype(ballots.dtype), -(-weights.shape[0] * ballots.shape[1] // _BLOCK))
    return np.concatenate([measure(part @ ballots) for part in blocks])


def _weights(members: int, committees: Sequence[Committee]) -> Floats:
    """(t, m) matrix whose product with ballots (m, K) is each committee's consensus."""
    weights = np.zeros((len(committees), members))
    for row, chosen in zip(weights, committees, strict=True):
        row[chosen] = 1 / len(chosen)
    return weights
