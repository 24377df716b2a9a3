"""What `score` writes: tables of the members, of each image and member, and of the correlations over the members."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus.published import ENSEMBLE
from xconsensus.scores.metrics import ENOUGH, Intervals, correlation, mean_over_images

RELIABLE = 0.5  # below, more than half of an explanation's variance over superpixels or pixels is sampling noise
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What was measured of m members on n images, NaN where there is nothing.

    ``similarity`` to the consensus (n, m), NaN of explanations without spread, ``average_precision`` (n, m + 1), the
    consensus's last, each explanation's ``reliability`` and number of ``samples``, and the class ``predicted`` on the
    explained crop with its ``probability``, (n, m).
    """

    similarity: Floats
    average_precision: Floats
    reliability: Floats
    samples: Floats
    predicted: Floats
    probability: Floats

    @classmethod
    def nothing(cls, images: int, members: int) -> "Measured":
        """All NaN, to be filled."""
        similarity, *others = np.full((5, images, members), np.nan)
        return cls(similarity, np.full((images, members + 1), np.nan), *others)

    def of(self, images: slice) -> "Measured":
        """The part of some images, which shares its numbers with the whole."""
        return Measured(*(getattr(self, each.name)[images] for each in fields(self)))


def members_table(
    members: pd.DataFrame, ensemble: tuple[float, float], measured: Measured, intervals: Intervals
) -> pd.DataFrame:
    """members.csv: one row a member, the ensemble last.

    ``members`` has the columns member, family and accuracy, and further ones, which come last. ``ensemble`` is the
    accuracy by averaged probabilities and by majority vote. Columns of reliability and of average precision stand there
    where these were measured.
    """
    low, high = intervals.of(measured.similarity)
    table = pd.DataFrame(
        {
            "member": [*members["member"], ENSEMBLE],
            "family": [*members["family"], ENSEMBLE],
            "accuracy": [*members["accuracy"], ensemble[0]],
            "majority_vote_accuracy": [*[np.nan] * len(members), ensemble[1]],
            "consensus_score": [*mean_over_images(measured.similarity), np.nan],
            "consensus_score_low": [*low, np.nan],
            "consensus_score_high": [*high, np.nan],
        }
    )
    if np.isfinite(measured.reliability).any():
        reliable = np.where(measured.reliability >= RELIABLE, measured.similarity, np.nan)
        table["reliability"] = [*mean_over_images(measured.reliability), np.nan]
        table["noise_share"] = [*(measured.reliability < RELIABLE).mean(0), np.nan]
        table["consensus_score_reliable"] = [*mean_over_images(reliable), np.nan]
    if np.isfinite(measured.average_precision).any():
        low, high = intervals.of(measured.average_precision)
        table["mean_average_precision"] = mean_over_images(measured.average_precision)
        table["mean_average_precision_low"], table["mean_average_precision_high"] = low, high
    for name in members.columns.difference(table.columns, sort=False):
        table[name] = [*members[name], np.nan]
    return table


def images_table(ids: Sequence[str], labels: Sequence[int], names: Sequence[str], measured: Measured) -> pd.DataFrame:
    """images.csv: one row an image and member; the consensus has an average precision alone.

    Of ``labels``, -1 is unknown. They and ``predicted`` are positions among the data set's classes.
    """
    columns, none = [*names, ENSEMBLE], np.full((len(ids), 1), np.nan)
    known = np.repeat([label if label >= 0 else np.nan for label in labels], len(columns))
    return pd.DataFrame(
        {
            "image_id": np.repeat(ids, len(columns)),
            "member": columns * len(ids),
            "similarity": np.hstack([measured.similarity, none]).ravel(),
            "average_precision": measured.average_precision.ravel(),
            "reliability": np.hstack([measured.reliability, none]).ravel(),
            "samples": np.hstack([measured.samples, none]).ravel(),
            "label": pd.array(known, dtype="Int64"),
            "predicted": pd.array(np.hstack([measured.predicted, none]).ravel(), dtype="Int64"),
            "probability": np.hstack([measured.probability, none]).ravel(),
        }
    )


def correlations_table(members: pd.DataFrame, level: float) -> pd.DataFrame:
    """correlations.csv: every pair of accuracy, consensus score and mAP (where there are masks) over the members."""
    own = members[members["member"] != ENSEMBLE]
    names = [n for n in ("accuracy", "consensus_score", "mean_average_precision") if n in own]
    rows = [{"x": x, "y": y, **asdict(correlation(own[x], own[y], level))} for x, y in combinations(names, 2)]
    return pd.DataFrame(rows)


def intervals_table(members: pd.DataFrame, images: pd.DataFrame, intervals: Intervals) -> pd.DataFrame:
    """intervals.csv: r of every pair of `correlations_table`, with Fisher's interval, which is over the members, and
    one over members and images at once. Accuracy, of the test images, is taken as it is in the latter.

    ``members`` and ``images`` are members.csv and images.csv.
    """
    own = members[members["member"] != ENSEMBLE].set_index("member")
    samples: dict[str, Floats] = {"accuracy": own["accuracy"].to_numpy()}
    for name, column in (("consensus_score", "similarity"), ("mean_average_precision", "average_precision")):
        if name in own:
            samples[name] = images.pivot(index="image_id", columns="member", values=column)[own.index].to_numpy()
    rows = []
    for x, y in combinations(samples, 2):
        found = correlation(own[x], own[y], intervals.level)
        fishers = {"n": found.n, "pearson_r": found.pearson_r, "low": found.pearson_low, "high": found.pearson_high}
        low, high = intervals.of_correlation(samples[x], samples[y])
        rows.append({"x": x, "y": y, **fishers, "members_and_images_low": low, "members_and_images_high": high})
    return pd.DataFrame(rows).rename(columns={"low": "members_low", "high": "members_high"})


def with_mask_kind(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The table, with the column masks where what average precision is taken to has a ``kind``, as boxes."""
    return table.assign(masks=kind) if kind else table


def noise(members: pd.DataFrame, reliability: Floats) -> str:
    """What sampling noise does to the scores of a members table, in a line; ``reliability`` is (n, m). Empty where no
    explanation is mostly noise.
    """
    own = members[members["member"] != ENSEMBLE]
    noisy, whole = int((reliability < RELIABLE).sum()), int(np.isfinite(reliability).sum())
    if not noisy:
        return ""
    line = f"{noisy} of {whole} explanations are mostly noise (reliability below {RELIABLE})"
    kept = correlation(own["consensus_score"], own["consensus_score_reliable"])
    shared = correlation(own["consensus_score"], own["reliability"])
    if min(kept.n, shared.n) < ENOUGH or not np.isfinite([kept.spearman_r, shared.pearson_r]).all():
        return line
    return (
        f"{line}; without them the members' scores keep their order with Spearman's r {kept.spearman_r:.2f};"
        f" reliability goes with {shared.pearson_r**2:.0%} of the variance of scores between members"
    )
