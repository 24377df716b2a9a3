"""The paper's claims beside what a run found: published value, own value, and whether they point the same way."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xconsensus import published
from xconsensus.figures import rendering, tables
from xconsensus.scores.metrics import ENOUGH

CONVERGED = 0.01  # mAP: committees are as good as the complete one when their mean is that near


class Claim(NamedTuple):
    """One number of the paper, on a data set of it, and the same number here, with its interval and n if known."""

    claim: str
    published_on: str
    published: float
    here: float
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    agrees: str = ""


def comparison(
    members: Mapping[str, pd.DataFrame],
    growing: pd.DataFrame | None = None,
    random: Mapping[str, pd.DataFrame] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """One row a claim of the paper that a run can be held against.

    Runs with masks stand beside CUB-200-2011, those without beside ImageNet. The claims: Pearson's r of Figures 4, 5,
    6 and 10; by how much the consensus's mAP exceeds the best member's (Fig. 4; published best from the legible rows
    of Table 2); the order of Table 1 (without masks, since it is of
    ImageNet); the mean correlation of a family's scores across random committees (section
    4.5.2); the committee size from which the mAP is within ``CONVERGED`` of the complete committee's (4.5.3).

    ``members`` as in `tables`; ``growing`` and ``random`` are the tables of `committees.growing_committees` and, an
    explainer each, of `committees.agreement`, where the run has them.

    Columns: claim, published_on, published, here, low, high (interval of ``level``, for section 4.5.2 the range of
    its middle ``level`` of committees; NaN where there is none, and of r with fewer than ``ENOUGH`` members), n
    (members, or committees), agrees: yes where both have the same sign and the interval excludes 0, "sign only" where
    it holds 0 or there is none, no where signs differ, "-" where there is no number here; for the size whether it is at
    most the published one, "-" where the whole committee is no larger.
    """
    masks = [name for name, table in members.items() if _has_masks(table)]
    dataset = "cub200" if masks else "imagenet"
    claims = [
        *_correlations(members, dataset, level),
        *_margins(masks, members, dataset),
        *([] if masks else _orders(members)),
        *_random(random or {}, level),
        *_convergence(growing),
    ]
    table = pd.DataFrame(claims, columns=Claim._fields)
    table["agrees"] = [row["agrees"] or _agrees(row) for row in table.to_dict("records")]
    return table


def _correlations(members: Mapping[str, pd.DataFrame], dataset: str, level: float) -> Iterable[Claim]:
    found = tables.correlations(members, dataset, level)
    for row in found.to_dict("records"):
        if np.isfinite(row.get("published_r", np.nan)):
            claim = f"r of {rendering.heading(row['x'])} and {rendering.heading(row['y'])}"
            low, high = (row["pearson_low"], row["pearson_high"]) if row["n"] >= ENOUGH else (np.nan, np.nan)
            yield Claim(claim, dataset, row["published_r"], row["pearson_r"], low, high, row["n"])


def _margins(explainers: Iterable[str], members: Mapping[str, pd.DataFrame], dataset: str) -> Iterable[Claim]:
    paper = published.members(dataset)
    for name in (each for each in explainers if each in paper):
        claim = f"{name}: consensus's mAP above the best member's"
        yield Claim(claim, dataset, _margin(paper[name]), _margin(members[name]), n=len(members[name]) - 1)


def _orders(members: Mapping[str, pd.DataFrame]) -> Iterable[Claim]:
    """Kendall's tau with the order of Table 1, of the models that the committee has."""
    paper = published.table1().set_index("model")
    for name, table in members.items():
        if (column := f"consensus_score_{name}") in paper:
            own = tables.table1_scores(table).dropna()
            if len(own) > 1:
                tau = own.corr(paper[column][own.index], method="kendall")
                yield Claim(f"{name}: order of table 1's models (Kendall's tau)", "imagenet", 1.0, tau, n=len(own))


def _random(random: Mapping[str, pd.DataFrame], level: float) -> Iterable[Claim]:
    for name, table in random.items():
        r = table["pearson_r"].dropna()
        low, high = (float(r.quantile(end)) for end in ((1 - level) / 2, (1 + level) / 2))
        claim = f"{name}: mean r of a family's scores under random and complete committees"
        yield Claim(claim, "imagenet", 0.96, float(r.mean()), low, high, len(r))


def _convergence(growing: pd.DataFrame | None) -> Iterable[Claim]:
    if growing is None:
        return
    means = growing.groupby("size")["mean_average_precision"].mean()
    far = means.index[means < means.iloc[-1] - CONVERGED]
    size, whole = int(far.max()) + 1 if len(far) else 1, int(means.index.max())
    agrees = "-" if whole <= 15 else "yes" if size <= 15 else "no"
    claim = f"members until the consensus's mAP is within {CONVERGED} of the complete committee's"
    yield Claim(claim, "cub200", 15, size, n=whole, agrees=agrees)


def _has_masks(table: pd.DataFrame) -> bool:
    return "mean_average_precision" in table and bool(table["mean_average_precision"].notna().any())


def _margin(table: pd.DataFrame) -> float:
    values = table.set_index("member")["mean_average_precision"]
    return float(values[published.ENSEMBLE] - values.drop(published.ENSEMBLE).max())


def _agrees(row: Mapping[Any, Any]) -> str:
    if np.isnan(row["here"]):
        return "-"
    if np.sign(row["published"]) != np.sign(row["here"]):
        return "no"
    return "yes" if row["low"] * row["high"] > 0 else "sign only"  # also where the interval is NaN
