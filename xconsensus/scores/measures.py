"""What goes with the members' accuracy: scores by votes of others than themselves, and rivals without explanations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.consensus import Similarity
from xconsensus.scores.metrics import correlation, mean_over_images, without_spread

Floats = NDArray[np.float64]


def votes_of_others(families: Sequence[str]) -> Mapping[str, Floats]:
    """Vote -> weights (m, m) whose row i gives the consensus that member i, of ``families`` (m), is compared with.

    ``score_without_itself`` is by all others, ``score_without_family`` by those of other families, NaN where there are
    none, and ``score_families_alike`` by all, each family weighing the same.
    """
    own = np.asarray(families)
    same = own[:, None] == own
    others = {"score_without_itself": ~np.eye(len(own), dtype=bool), "score_without_family": ~same}
    with np.errstate(invalid="ignore"):
        weights = {name: voting / voting.sum(1, keepdims=True) for name, voting in others.items()}
    alike = 1 / same.sum(1) / len(set(families))
    return {**weights, "score_families_alike": np.tile(alike, (len(own), 1))}


def scores_by_votes(
    images: Iterable[tuple[Tensor, Tensor]], votes: Mapping[str, Floats], similarity: Similarity
) -> dict[str, Floats]:
    """How similar each member's explanation is to the consensus of each vote: (images, m) by the vote's name.

    ``images`` gives the explanations (m, K) and ballots (m, K) of one image at a time, ``votes`` is `votes_of_others`.
    NaN where nobody votes, and of explanations without spread.
    """
    weights, rows = torch.from_numpy(np.concatenate([*votes.values()])), []
    for explanations, ballots in images:
        found = similarity.to_means(explanations.double(), ballots.double(), weights).unflatten(0, (len(votes), -1))
        own = found.diagonal(dim1=1, dim2=2).numpy()
        rows.append(np.where(without_spread(explanations), np.nan, own))
    silent = {vote: np.isnan(voting).any(1) for vote, voting in votes.items()}
    every = np.stack(rows, axis=1)
    return {vote: np.where(silent[vote], np.nan, values) for vote, values in zip(votes, every, strict=True)}


def of_predictions(members: Callable[[], Iterable[Tensor]]) -> pd.DataFrame:
    """What predictions alone say of each member, without labels and explanations.

    ``members`` gives each member's probabilities (n, classes) of the same images, one member at a time, twice.

    Returns a row a member: ``agreement_with_others``, the share of images whose predicted class is that of the others'
    averaged probabilities; ``agreement_of_pairs``, the mean over the others of the share on which both predict the
    same; ``largest_probability``, its mean, and ``negative_entropy``, the mean of sum p log p, in nats. The first two
    are NaN for a member without others.
    """
    total: Tensor | float = 0.0
    predicted, largest, entropy = [], [], []
    for probabilities in members():
        total = total + probabilities.double()
        predicted.append(probabilities.argmax(1).numpy())
        largest.append(float(probabilities.max(1).values.double().mean()))
        entropy.append(float(torch.special.xlogy(probabilities.double(), probabilities.double()).sum(1).mean()))
    alone = len(predicted) == 1
    with_others = [float(((total - each.double()).argmax(1) == each.argmax(1)).double().mean()) for each in members()]
    classes = np.array(predicted)
    pairs = [
        float((np.delete(classes, row, 0) == own).mean()) if not alone else np.nan for row, own in enumerate(classes)
    ]
    return pd.DataFrame(
        {
            "agreement_with_others": [np.nan] if alone else with_others,
            "agreement_of_pairs": pairs,
            "largest_probability": largest,
            "negative_entropy": entropy,
        }
    )


def measures_table(names: Sequence[str], similarities: Mapping[str, Floats], predictions: pd.DataFrame) -> pd.DataFrame:
    """measures.csv: one row a member, of ``names`` (m).

    ``similarities`` (images, m) by each vote, whose means over the images stand there, before the columns of
    ``predictions``, `of_predictions`.
    """
    means = {vote: mean_over_images(values) for vote, values in similarities.items()}
    return pd.DataFrame({"member": names, **means}).join(predictions)


def with_accuracy(measures: pd.DataFrame, members: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """How each measure goes with accuracy over the members of both measures.csv and members.csv.

    Returns one row a measure, the consensus score first: the fields of `metrics.Correlation`, and partial_r, that of
    the consensus score and accuracy given the measure, NaN of the first.
    """
    table = members[["member", "accuracy", "consensus_score"]].merge(measures, on="member")
    rows = []
    for name in table.columns.drop(["member", "accuracy"]):
        partial = partial_correlation(table["consensus_score"], table["accuracy"], table[name])
        rows.append(
            {"measure": name, **asdict(correlation(table[name], table["accuracy"], level)), "partial_r": partial}
        )
    found = pd.DataFrame(rows)
    found.loc[found["measure"] == "consensus_score", "partial_r"] = np.nan
    return found


def partial_correlation(x: "pd.Series[float]", y: "pd.Series[float]", given: "pd.Series[float]") -> float:
    """Pearson's r of x and y after both are regressed on ``given``, over the rows that have all three.

    NaN where there are fewer than four, or one of x and y is a linear function of ``given``.
    """
    table = np.array([x, y, given], dtype=np.float64)
    table = table[:, np.isfinite(table).all(0)]
    if table.shape[1] < 4:
        return float("nan")
    xy, xz, yz = (correlation(table[a], table[b]).pearson_r for a, b in ((0, 1), (0, 2), (1, 2)))
    left = (1 - xz**2) * (1 - yz**2)
    return float((xy - xz * yz) / np.sqrt(left)) if left > 1e-12 else float("nan")
