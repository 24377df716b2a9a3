"""What carries a correlation over members: it without the weakest of them, and over committees drawn from them."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from xconsensus.scores.metrics import correlation

WEAKEST = (0.0, 0.1, 0.25, 0.5)  # shares of the members that are left out, by accuracy
SIZES = (5, 10, 15, 20, 40)  # members of a random committee
DRAWS = 5_000  # of these; the ends of their 90 % interval of r move by about 0.01 from seed to seed

_BLOCK = 2**22  # random numbers at once


def subsets(scores: ArrayLike, accuracies: ArrayLike, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Correlation of consensus score and accuracy, two lists (n,), in subsets of the members.

    Members without either number are left out. The first rows leave out the members less accurate than the quantile
    of each of ``WEAKEST``; their intervals, of a ``level``, are `metrics.correlation`'s. The others are of random
    committees of ``SIZES`` below n, scores as they are by the complete committee's vote: the median of ``DRAWS`` of
    them, seeded by ``seed``, as r, and between low and high lie 90 % of them.

    Returns columns members (text), n, pearson_r, pearson_low, pearson_high, spearman_r, spearman_low, spearman_high.
    NaN where there is no such number, as in `metrics.correlation`.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    rows: list[tuple[object, ...]] = []
    for share in WEAKEST if len(y) else ():
        kept = y >= np.quantile(y, share)
        found = correlation(x[kept], y[kept], level)
        what = f"without the weakest {100 * share:g} %" if share else "all"
        pearson = (found.pearson_r, found.pearson_low, found.pearson_high)
        rows.append((what, found.n, *pearson, found.spearman_r, found.spearman_low, found.spearman_high))
    for size in (size for size in SIZES if size < len(y)):
        spread = [np.nanquantile(each, [0.5, 0.05, 0.95]) for each in random_committees(x, y, size, DRAWS, seed)]
        rows.append((f"{size} at random", size, *map(float, np.concatenate(spread))))
    ends = ("r", "low", "high")
    columns = [f"{name}_{end}" for name in ("pearson", "spearman") for end in ends]
    return pd.DataFrame(rows, columns=["members", "n", *columns])


def random_committees(
    x: NDArray[np.float64], y: NDArray[np.float64], size: int, draws: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pearson's and Spearman's r, (draws,) each, of some of the pairs of x and y.

    Parameters
    ----------
    x, y : (n,).
    size : how many pairs are drawn, without replacement.
    draws, seed : how often, and from where.

    NaN of a draw in which either is constant. Ranks share their mean where values tie.
    """
    generator, n = np.random.default_rng(seed), len(x)
    pearson, spearman = [], []
    for start in range(0, draws, block := max(1, _BLOCK // n)):
        keys = generator.random((min(block, draws - start), n))
        chosen = np.argpartition(keys, size - 1, axis=1)[:, :size]
        pearson.append(_r(x[chosen], y[chosen]))
        spearman.append(_r(rankdata(x[chosen], axis=1), rankdata(y[chosen], axis=1)))
    return np.concatenate(pearson), np.concatenate(spearman)


def _r(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's r of each row of two arrays (draws, size); NaN where a row is constant."""
    a, b = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    constant = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(constant, np.nan, (a * b).sum(1) / np.sqrt(np.square(a).sum(1) * np.square(b).sum(1)))
