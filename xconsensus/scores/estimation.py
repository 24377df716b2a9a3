"""Estimating accuracy from few labels, or none (Li et al. 2023, section 5.2): of a member that was left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

FEWEST = 3  # members that a line is fitted to: through two, any goes
SCORE, AGREEMENT, MEAN = "consensus score", "agreement with the others", "mean of the others"


def agreement_with_others(predicted: NDArray[np.integer], everybody: NDArray[np.integer]) -> Floats:
    """How often each member predicts what another does, the mean over the others: (m,) in 0..1.

    ``predicted`` (m, n) are the members' classes, ``everybody`` (v, n) those of all voters, among which the members
    are. NaN of a voter alone. No label is asked.
    """
    equal = np.array([[(one == other).mean() for other in everybody] for one in predicted])
    others = len(everybody) - 1
    return np.asarray((equal.sum(1) - 1) / others if others else np.full(len(predicted), np.nan))


def left_out(measure: Floats | None, accuracy: Floats, groups: Sequence[str]) -> Floats:
    """Each member's accuracy (m,) by the least-squares line on ``measure`` (m,) of the other groups' members.

    ``groups`` (m,) are the members' names, to leave one out, or their families. Without a measure it is the others'
    mean. Predictions are within 0..1, and NaN where fewer than `FEWEST` others have both numbers, or one measure.
    """
    predicted = np.full(len(accuracy), np.nan)
    for group in dict.fromkeys(groups):
        own = np.array([each == group for each in groups])
        known = ~own & np.isfinite(accuracy) & (True if measure is None else np.isfinite(measure))
        if known.sum() < FEWEST:
            continue
        if measure is None:
            predicted[own] = accuracy[known].mean()
        elif np.ptp(measure[known]) > 0:
            slope, intercept = stats.linregress(measure[known], accuracy[known])[:2]
            predicted[own] = np.clip(intercept + slope * measure[own], 0, 1)
    return predicted


def by_labels(right: NDArray[np.bool_], count: int, draws: int, seed: int) -> Floats:
    """The members' accuracies (draws, m) on ``count`` images drawn without replacement, the same for all members.

    ``right`` (m, n) says which of the n labelled images each gets right; ``count`` is at most n.
    """
    generator = np.random.default_rng([seed, count])
    chosen = [generator.choice(right.shape[1], count, replace=False) for _ in range(draws)]
    return np.stack([right[:, some].mean(1) for some in chosen])


def error(predicted: ArrayLike, accuracy: Floats) -> float:
    """Mean absolute error of predictions (..., m), over those that there are; NaN without any."""
    errors = np.abs(np.asarray(predicted) - accuracy)
    return float(errors[np.isfinite(errors)].mean()) if np.isfinite(errors).any() else float("nan")


def tau(predicted: ArrayLike, accuracy: Floats) -> Floats:
    """Kendall's tau-b (...) of predictions (..., m) and accuracies (m,), over the members that have both.

    NaN with fewer than two, or of equal accuracies, and 0 where all are predicted alike: there is no order in it.
    """
    values = np.asarray(predicted)
    one, other = np.triu_indices(len(accuracy), k=1)
    known = np.isfinite(values) & np.isfinite(accuracy)
    both = known[..., one] & known[..., other]
    # of each pair whether the first is the larger, 1, the other, -1, or neither
    sides = np.where(both, np.sign(values[..., one] - values[..., other]), 0)
    order = np.where(both, np.sign(accuracy[one] - accuracy[other]), 0)
    pairs = np.sqrt(np.abs(sides).sum(-1) * np.abs(order).sum(-1))
    found = (sides * order).sum(-1) / np.where(pairs > 0, pairs, 1)
    return np.asarray(np.where(np.abs(order).sum(-1) > 0, found, np.nan))


def estimation(
    members: pd.DataFrame,
    predicted: NDArray[np.integer],
    everybody: NDArray[np.integer],
    labels: NDArray[np.integer],
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """estimation.csv: how far accuracies lie from what is estimated, and whether their order is right.

    Parameters
    ----------
    members : columns member, family, accuracy and consensus_score, one row a member (m).
    predicted, everybody : classes of the test images by the members (m, n), and by all who vote (v, n).
    labels : (n,), -1 where unknown.
    options : ``labelled``, numbers of labelled images; ``draws`` of so many images each; ``seed``.

    Returns a row an estimator and who was ``left_out`` when it was fitted (one member; its family; nobody, of what is
    not fitted): n members, mean_absolute_error, kendall_tau of the estimates, and of a measure that needs no labels
    kendall_tau_unfitted, of the measure itself; labelled images have means over the draws. Of these there are no more
    than labels. No rows without any.
    """
    known = labels >= 0
    accuracy = members["accuracy"].to_numpy(dtype=np.float64)
    measures = {
        MEAN: None,
        AGREEMENT: agreement_with_others(predicted, everybody),
        SCORE: members["consensus_score"].to_numpy(dtype=np.float64),
    }
    rows: list[tuple[str, str, int, float, float, float]] = []
    for name, measure in measures.items() if known.any() else ():
        for left, groups in (("member", members["member"]), ("family", members["family"])):
            found = left_out(measure, accuracy, list(groups))
            # the others' mean falls as the own accuracy rises: its order is no estimate
            taus = (np.nan, np.nan) if measure is None else (float(tau(found, accuracy)), float(tau(measure, accuracy)))
            rows.append((name, left, int(np.isfinite(found).sum()), error(found, accuracy), *taus))
    right = predicted[:, known] == labels[known]
    for count in [count for count in options["labelled"] if count <= known.sum()]:
        drawn = by_labels(right, count, options["draws"], options["seed"])
        mean = float(tau(drawn, accuracy).mean())
        rows.append((f"{count} labelled images", "nobody", len(accuracy), error(drawn, accuracy), mean, np.nan))
    columns = ["estimator", "left_out", "n", "mean_absolute_error", "kendall_tau", "kendall_tau_unfitted"]
    return pd.DataFrame(rows, columns=columns)
