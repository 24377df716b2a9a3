"""How well explanations agree: with an object's outline (average precision), and with each other (correlation)."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from xconsensus.errors import InputError

Floats = NDArray[np.floating]
Bits = NDArray[np.unsignedinteger[Any]]

_NARROW: dict[np.dtype[Any], type[np.unsignedinteger[Any]]] = {
    np.dtype(np.float16): np.uint16,
    np.dtype(np.float32): np.uint32,
}

EXACT = 8  # pairs up to which p is that of all permutations: 40320, a few milliseconds
ENOUGH = 5  # pairs from which p and interval are worth stating: with 4, p is never below 1 / 24
_ROUNDING = 1e-9  # coefficients that differ by less are equal, so that rounding parts no ties

# Resampling counts of one block, in numbers: bounds the memory of `bootstrap_mean` whatever the image count.
_BLOCK = 2**22

# How a map is turned before its average precision. Only order counts there, so absolute and squared give the same.
AP_WEIGHTS: Mapping[str, Callable[[Floats], Floats]] = {
    "signed": lambda values: values,
    "absolute": np.abs,
    "squared": lambda values: np.square(values, dtype=np.float64),
}


def average_precision(values: ArrayLike, positives: ArrayLike, counts: ArrayLike | None = None) -> float:
    """Average precision of one map as a detector of the object, in [0, 1].

    Equals scikit-learn's ``average_precision_score`` on the painted pixel map: sum over distinct values, from
    the highest, of precision x gain in recall; equal values enter together.

    Parameters
    ----------
    values : (K,), the map: one value a pixel or a superpixel, higher = more object.
    positives : (K,), the item's pixels inside the object; bool where items are pixels.
    counts : (K,), the item's pixels; None = one each; bool: where items are pixels, those that count.

    Returns NaN where no pixel belongs to the object. Raises InputError where `average_precisions` does.
    """
    return float(average_precisions(np.asarray(values).reshape(1, -1), positives, counts)[0])


def average_precisions(values: ArrayLike, positives: ArrayLike, counts: ArrayLike | None = None) -> Floats:
    """`average_precision` of many maps of one image: values (n, K), positives and counts (K,) -> (n,) float64.

    Raises InputError if a value is not finite, the lengths differ, or an item has more positives than pixels.
    """
    maps, inside = np.atleast_2d(np.asarray(values)), np.asarray(positives).ravel()
    total = np.ones(len(inside), bool) if counts is None else np.asarray(counts).ravel()
    if not maps.shape[-1] == len(inside) == len(total):
        raise InputError(
            f"average precision: {maps.shape[-1]} values, {len(inside)} positives and {len(total)} counts; "
            "give one of each per item"
        )
    if inside.dtype != bool and (np.any(inside < 0) or np.any(inside > total)):
        raise InputError("average precision: an item has more positives than pixels; pass counts of all pixels")
    if not _finite(maps):
        raise InputError("average precision: the map holds NaN or infinite values; drop or recompute it")
    if not inside.any():
        return np.full(len(maps), np.nan)
    if total.dtype == bool:
        outside = inside[total] <= 0
        maps = maps if counts is None else maps[:, total]
        return np.array([_of_pixels(values, outside) for values in maps])
    inside, total = inside.astype(np.float64), total.astype(np.float64)
    order = np.argsort(maps, axis=-1)[:, ::-1]
    ranked = np.take_along_axis(maps, order, axis=-1)
    hits = np.cumsum(inside[order], axis=-1)
    precision = hits / np.maximum(np.cumsum(total[order], axis=-1), 1)
    # A group of ties counts once, at its last item; elsewhere nothing is gained.
    group_ends = np.ones(maps.shape, bool)
    group_ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    found = np.maximum.accumulate(np.where(group_ends, hits, 0), axis=-1)
    gains = np.diff(found, axis=-1, prepend=0)
    return np.asarray((gains * precision).sum(axis=-1) / inside.sum(), dtype=np.float64)


def areas(
    mask: NDArray[np.bool_], segments: ArrayLike | None = None, void: NDArray[np.bool_] | None = None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """``positives`` and ``counts`` of an image's explanations as `average_precision` takes them, from its ``mask``.

    ``mask`` is (H, W), and so is ``void``, the pixels that do not count. With ``segments`` (H, W) or (H * W,), numbered
    from 0, an explanation has one value a superpixel, without them one a pixel, each of which counts once.
    """
    counted = None if void is None else ~void.ravel()
    inside = mask.ravel() if counted is None else mask.ravel() & counted
    if segments is None:
        return inside, counted
    flat = np.asarray(segments).ravel()
    every = np.bincount(flat) if counted is None else np.bincount(flat, weights=counted)
    return np.bincount(flat, weights=inside), every


def without_spread(values: ArrayLike) -> NDArray[np.bool_]:
    """Whether explanations (..., K) have one value alone: what they are similar to means nothing."""
    explanations = np.asarray(values)
    return np.asarray(explanations.max(-1) == explanations.min(-1))


def _of_pixels(values: Floats, outside: NDArray[np.bool_]) -> float:
    """Average precision of a map (K,) of pixels: numbers are sorted that hold value and, last, outside or not.

    Sorting numbers is several times faster than sorting their positions. Of values of 64 bits the last bit is lost.
    """
    if values.dtype in _NARROW and values.min() >= 0:
        kind = _NARROW[values.dtype]
        keys: Bits = values.view(kind) << kind(1) | outside  # shifts out the sign, also of -0
    else:
        keys = _ordered(values.astype(np.float64)) & ~np.uint64(1) | outside
    keys.sort()
    ranks = np.flatnonzero((keys & 1) == 0)  # of the object's pixels, the first of those with equal values
    held = keys[ranks]
    leads = np.flatnonzero(np.append(True, held[1:] != held[:-1]))  # first of each group of ties among these
    found, seen = len(ranks) - leads, len(keys) - ranks[leads]
    gains = np.diff(leads, append=len(ranks))
    return float((gains * found / seen).sum() / len(ranks))


def _ordered(values: NDArray[np.float64]) -> Bits:
    """Floats as unsigned integers in the same order: the sign bit flipped, and all bits of negative ones."""
    bits = values.view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits > sign, ~bits, bits | sign)  # -0 becomes what 0 does


def _finite(maps: Floats) -> bool:
    if maps.dtype == np.float16:  # numpy is slow with these, but not with their bits
        return not ((maps.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(maps).all())


@dataclass(frozen=True)
class Correlation:
    """Pearson's and Spearman's coefficient of n pairs, each with two-sided p and confidence interval."""

    n: int
    pearson_r: float
    pearson_p: float
    pearson_low: float
    pearson_high: float
    spearman_r: float
    spearman_p: float
    spearman_low: float
    spearman_high: float


def correlation(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Correlation:
    """Correlation of two equally long lists (n,); pairs with a number that is not finite are dropped.

    p is two-sided. Up to ``EXACT`` pairs it is exact, of the permutation test: the part of all n! orders of y whose
    |r| is at least the observed one, ties included. So with 4 pairs it is never below 1 / 24. With more pairs
    it is that of the t distribution with n - 2 degrees of freedom; Spearman's is then at least 2 / n!, below which no
    permutation test of ranks can lie.

    Intervals are on Fisher's z, as `fisher_interval` has them; Spearman's with the variance 1 + r^2 / 2 (Bonett and
    Wright 2000, doi 10.1007/BF02294183, which compares both). With fewer than 4 pairs and at r = +-1 there is none:
    its ends are NaN. With fewer than 3 pairs, or a list that is constant up to rounding, all but n is NaN.

    Raises InputError if the lengths differ.
    """
    first, second = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if len(first) != len(second):
        raise InputError(f"correlation: {len(first)} values against {len(second)}; give equally many")
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    n = len(first)
    if n < 3 or _is_constant(first) or _is_constant(second):
        return Correlation(n, *[float("nan")] * 8)
    pearson, spearman = stats.pearsonr(first, second), stats.spearmanr(first, second)
    r, rho = float(pearson.statistic), float(spearman.statistic)
    if n <= EXACT:
        p, p_of_ranks = _exact_p(first, second), _exact_p(stats.rankdata(first), stats.rankdata(second))
    else:
        p, p_of_ranks = float(pearson.pvalue), max(float(spearman.pvalue), 2 / factorial(n))
    return Correlation(
        n,
        r,
        p,
        *fisher_interval(r, n, level),
        rho,
        p_of_ranks,
        *fisher_interval(rho, n, level, variance=1 + rho**2 / 2),
    )


def _exact_p(x: Floats, y: Floats) -> float:
    """Two-sided p of Pearson's r of x and y (n,) by the permutation test, in [1 / n!, 1]; Spearman's if they are ranks.

    Neither list may be constant. All n! orders are gone through, in milliseconds up to n = 8.
    """
    first, second = _standardised(x), _standardised(y)
    every = np.abs(second[_orders(len(y))] @ first)
    return float((every >= abs(second @ first) - _ROUNDING).mean())


def fisher_interval(r: float, n: int, level: float = 0.95, variance: float = 1.0) -> tuple[float, float]:
    """Confidence interval of a correlation r of n pairs: tanh(atanh(r) -+ quantile x error) (Fisher 1921).

    The standard error is sqrt(variance / (n - 3)); Pearson's r has variance 1. Returns its ends, within (-1, 1), or
    NaN and NaN with fewer than 4 pairs and at r = +-1, where neither error nor atanh is finite.
    """
    if n < 4 or abs(r) > 1 - _ROUNDING:
        return float("nan"), float("nan")
    margin = stats.norm.ppf((1 + level) / 2) * np.sqrt(variance / (n - 3))
    return float(np.tanh(np.arctanh(r) - margin)), float(np.tanh(np.arctanh(r) + margin))


@cache
def _orders(n: int) -> NDArray[np.intp]:
    """All orders of n things: (n!, n) positions."""
    return np.array([*permutations(range(n))], dtype=np.intp)


def _standardised(values: Floats) -> Floats:
    """Values (n,) less their mean, of length 1: the products of two such lists are Pearson's r."""
    centred = values - values.mean()
    centred /= np.abs(centred).max()  # squares of tiny numbers would be 0
    return np.asarray(centred / np.linalg.norm(centred))


def _is_constant(values: Floats) -> bool:
    """Whether values differ by rounding alone: their r would be that of noise."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def bootstrap_mean(samples: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of each member's mean over images (Efron 1979, doi 10.1214/aos/1176344552).

    samples : (images, members), one similarity or average precision each; NaN where there is none.

    Returns (low, high), each (members,) float64. All members share each resampling of the images, so members
    stay comparable. A NaN is left out of its member's mean, as `numpy.nanmean` does, not out of the others';
    a member without a number has the interval (NaN, NaN).

    Raises InputError if samples is not (images, members) or has no image.
    """
    table = np.asarray(samples, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0:
        raise InputError(f"bootstrap: samples of shape {table.shape}; give (images, members), at least one image")
    generator = np.random.default_rng(seed)
    means = np.concatenate([_means(table, times) for times in _resamplings(generator, draws, len(table))])
    low, high = _percentiles(means, level)
    return low, high


def bootstrap_correlation(
    first: ArrayLike, second: ArrayLike, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of Pearson's r over members and images at once: each draw resamples both,
    independently of each other (the pigeonhole bootstrap, Owen 2007, doi 10.1214/07-AOAS122).

    Parameters
    ----------
    first, second : what is correlated over the members: (images, members), of which it is the mean over images, NaN
        where there is none; or (members,), where images do not matter, as for accuracy.
    draws, seed : how many resamplings, and of which numbers.
    level : of the interval, in 0..1.

    Returns its ends, NaN and NaN with fewer than 4 members that have both. Draws without an r, as of one member over
    and over, are left out.

    Raises InputError if neither is (images, members), or they are not of the same images and members.
    """
    both = [np.asarray(each, dtype=np.float64) for each in (first, second)]
    tables = [each for each in both if each.ndim == 2]
    images = len(tables[0]) if tables else 0
    if images == 0 or len({each.shape if each.ndim == 2 else (images, *each.shape) for each in both}) > 1:
        shapes = " and ".join(str(each.shape) for each in both)
        raise InputError(f"bootstrap: samples of shapes {shapes}; give (images, members), and the same or (members,)")
    known = np.isfinite([mean_over_images(each) if each.ndim == 2 else each for each in both]).all(0)
    both, members = [each[..., known] for each in both], int(known.sum())
    if members < 4:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    found = []
    for times in _resamplings(generator, draws, images):
        who = generator.integers(members, size=(len(times), members))
        drawn = (_means(each, times) if each.ndim == 2 else np.tile(each, (len(times), 1)) for each in both)
        found.append(_row_by_row(*(np.take_along_axis(each, who, axis=1) for each in drawn)))
    low, high = _percentiles(np.concatenate(found), level)
    return float(low), float(high)


def _percentiles(draws: Floats, level: float) -> Floats:
    """The ends of the interval of a level in 0..1 of some draws (n, ...), NaN left out: (2, ...)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that all are NaN
        return np.asarray(np.nanpercentile(draws, [50 * (1 - level), 50 * (1 + level)], axis=0))


def _resamplings(generator: np.random.Generator, draws: int, images: int) -> Iterator[Floats]:
    """How often each image is drawn in each of some draws, (draws, images) in all, in blocks that fit memory."""
    block = max(1, _BLOCK // images)
    for start in range(0, draws, block):
        picks = generator.integers(images, size=(min(block, draws - start), images))
        yield np.stack([np.bincount(row, minlength=images) for row in picks]).astype(np.float64)


def _means(table: Floats, times: Floats) -> Floats:
    """Means (draws, members) of a table (images, members) whose images are drawn so many times, NaN left out."""
    present = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.asarray((times @ np.where(present, table, 0)) / (times @ present.astype(np.float64)))


def _row_by_row(x: Floats, y: Floats) -> Floats:
    """Pearson's r of each row of x with that of y, (n,); NaN where one is constant up to rounding, or has a NaN."""
    with np.errstate(invalid="ignore", divide="ignore"):
        flat = [np.ptp(each, axis=1) <= 1e-12 * np.abs(each).max(axis=1) for each in (x, y)]
        centred = [each - each.mean(axis=1, keepdims=True) for each in (x, y)]
        lengths = [np.linalg.norm(each, axis=1) for each in centred]
        r = (centred[0] * centred[1]).sum(axis=1) / (lengths[0] * lengths[1])
    return np.where(flat[0] | flat[1], np.nan, r)


def mean_over_images(samples: ArrayLike) -> Floats:
    """Mean over the first axis, numbers that are not finite left out; NaN where there is none."""
    values = np.asarray(samples, dtype=np.float64)
    present = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(present, values, 0).sum(0) / present.sum(0))


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals over images: ``draws`` resamplings, of a ``level`` in 0..1, seeded by ``seed``."""

    draws: int
    level: float
    seed: int

    def of(self, samples: ArrayLike) -> tuple[Floats, Floats]:
        """Low and high ends (members,) of the means of samples (images, members), as `bootstrap_mean` has them."""
        return bootstrap_mean(samples, self.draws, self.seed, self.level)

    def of_correlation(self, first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
        """Ends of Pearson's r over members and images at once, as `bootstrap_correlation` has them."""
        return bootstrap_correlation(first, second, self.draws, self.seed, self.level)
