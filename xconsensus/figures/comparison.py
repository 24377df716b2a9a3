"""The paper's claims beside what a run found: published value, own value, and whether they point the same way."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from xconsensus import published
from xconsensus.figures import rendering, tables
from xconsensus.scores.metrics import ENOUGH

CONVERGED = 0.01  # mAP: committees are as good as the complete one when their mean is that near; not the paper's bound
# how many members suffice, and where the paper says so
_ENOUGH_MEMBERS = {15: "4.5.3: works well enough", 5: "4.1.4: may work as well"}
_ONLY = "lime"  # the explainer of section 4.5.2's number and of Figure 8


class Claim(NamedTuple):
    """One number of the paper, on a data set of it, and the same number here, with its interval and n if known.

    ``note`` says what the two numbers do not have in common.
    """

    claim: str
    published_on: str
    published: float
    here: float
    low: float = np.nan
    high: float = np.nan
    n: int = 0
    agrees: str = ""
    note: str = ""


def comparison(
    members: Mapping[str, pd.DataFrame],
    growing: Mapping[str, pd.DataFrame] | None = None,
    random: Mapping[str, pd.DataFrame] | None = None,
    level: float = 0.95,
    own: str | None = None,
    loader: str = "",
    kinds: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row a claim of the paper that a run can be held against.

    The claims: Pearson's r of Figures 4, 5, 6, 10 and 11; by how much the consensus's mAP exceeds the best member's
    (Fig. 4); the order of Table 1 (ImageNet); the mean correlation of a family's scores across random committees
    (section 4.5.2) and the committee sizes from which the mAP should be near the complete committee's (4.1.4, 4.5.3),
    both of LIME alone, as in the paper.

    Parameters
    ----------
    members : as in `tables`.
    growing, random : explainer -> the table of `committees.growing_committees`, of `committees.agreement`, if any.
    level : of intervals.
    own : the paper's data set that the members are of; None: what `nearest` says.
    loader : the data set's loader.
    kinds : explainer -> its method, as `tables.kind_of` takes them.

    Columns: claim, published_on, published, here, low, high (interval of ``level``, for section 4.5.2 the range of
    its middle ``level`` of committees; NaN where there is none, and of r with fewer than ``ENOUGH`` members), n
    (members, or committees), agrees: yes where both have the same sign and the interval excludes 0, "sign only" where
    it holds 0 or there is none, no where signs differ, "-" where there is no number here; for the size whether it is at
    most the published one, "-" where the whole committee is no larger; note: by which rule a data set of one's own
    stands beside the paper's, and what of the claim is not the paper's.
    """
    masks = [name for name, table in members.items() if _has_masks(table)]
    dataset, why = (own, "") if own else nearest_published(loader, bool(masks))
    claims = [
        *_correlations(members, dataset, level, kinds),
        *(_margins(masks, members, dataset, kinds) if dataset == "cub200" else ()),
        *(_orders(members, kinds) if dataset == "imagenet" else ()),
        *_random(
            {name: table for name, table in (random or {}).items() if tables.kind_of(name, kinds) == _ONLY}, level
        ),
        *_convergence({name: table for name, table in (growing or {}).items() if tables.kind_of(name, kinds) == _ONLY}),
    ]
    table = pd.DataFrame(claims, columns=Claim._fields)
    rows = table.to_dict("records")
    table["agrees"] = [row["agrees"] or _agrees(row) for row in rows]
    beside = [why if row["published_on"] == dataset else f"the paper has it of {row['published_on']}" for row in rows]
    table["note"] = ["; ".join(filter(None, (each, row["note"]))) for each, row in zip(beside, rows, strict=True)]
    return table


_SAID = {"yes": "Holds here", "sign only": "Has the paper's sign alone", "no": "Differs from the paper"}
_MOST = 3  # claims a line


def conclusion(table: pd.DataFrame) -> list[str]:
    """A run's conclusion in three lines, from `comparison`: which claims hold here, how strongly, of how many; the
    strongest first.
    """
    lines = []
    for agrees, words in _SAID.items():
        found = table[table["agrees"] == agrees]
        order = (found["here"].abs() / found["published"].abs()).sort_values(ascending=False, kind="stable").index
        claims = [_in_words(row) for row in found.loc[order].to_dict("records")]
        more = f"; and {len(claims) - _MOST} more" if len(claims) > _MOST else ""
        lines.append(f"{words}: {'; '.join(claims[:_MOST]) or 'nothing'}{more}.")
    return lines


def _in_words(row: Mapping[Any, Any]) -> str:
    interval = f", {row['low']:.2f} to {row['high']:.2f}" if np.isfinite(row["low"]) else ""
    return f"{row['claim']} {row['here']:.3g} (n={row['n']}{interval}; paper {row['published']:.3g})"


def nearest_published(loader: str, masks: bool) -> tuple[str, str]:
    """The paper's data set that one of one's own stands beside, and why: with masks CUB-200-2011, the only one with
    any; else that of its ``loader``; else ImageNet.
    """
    if masks:
        return "cub200", "own data with masks, as only cub200 has them in the paper"
    if loader in published.all_datasets():
        return loader, f"read as {loader}"
    return "imagenet", "own data without masks, beside the paper's main data set without"


def _correlations(
    members: Mapping[str, pd.DataFrame], dataset: str, level: float, kinds: Mapping[str, str] | None
) -> Iterable[Claim]:
    found = tables.correlations(members, dataset, level, kinds)
    titles = {name: name for name in members} | tables.EXPLAINERS  # own names as they are, spelt alike in every claim
    for row in found.to_dict("records"):
        if np.isfinite(row.get("published_r", np.nan)):
            claim = f"r of {rendering.heading(row['x'], titles)} and {rendering.heading(row['y'], titles)}"
            low, high = (row["pearson_low"], row["pearson_high"]) if row["n"] >= ENOUGH else (np.nan, np.nan)
            yield Claim(claim, dataset, row["published_r"], row["pearson_r"], low, high, row["n"])


def _margins(
    explainers: Iterable[str], members: Mapping[str, pd.DataFrame], dataset: str, kinds: Mapping[str, str] | None
) -> Iterable[Claim]:
    paper = published.members(dataset)
    for name in explainers:
        if (stated := paper.get(tables.kind_of(name, kinds))) is not None:
            claim = f"{name}: consensus's mAP above the best member's"
            legible = int(stated["mean_average_precision"].notna().sum()) - 1
            note = f"published: best of the {legible} legible of {len(stated) - 1}"
            own = members[name]
            yield Claim(claim, dataset, _margin(stated), _margin(own), n=len(own) - 1, note=note)


def _orders(members: Mapping[str, pd.DataFrame], kinds: Mapping[str, str] | None) -> Iterable[Claim]:
    """Kendall's tau with the order of Table 1, of the models that the committee has."""
    paper = published.table1().set_index("model")
    for name, table in members.items():
        if (column := f"consensus_score_{tables.kind_of(name, kinds)}") in paper:
            own = tables.table1_scores(table).dropna()
            if len(own) > 1:
                tau = own.corr(paper[column][own.index], method="kendall")
                yield Claim(f"{name}: order of table 1's models (Kendall's tau)", "imagenet", 1.0, tau, n=len(own))


def _of_lime(found: Mapping[str, pd.DataFrame] | None, kinds: Mapping[str, str] | None) -> dict[str, pd.DataFrame]:
    return {name: table for name, table in (found or {}).items() if tables.kind_of(name, kinds) == _ONLY}


def _random(random: Mapping[str, pd.DataFrame], level: float) -> Iterable[Claim]:
    for name, table in random.items():
        r = table["pearson_r"].dropna()
        low, high = (float(r.quantile(end)) for end in ((1 - level) / 2, (1 + level) / 2))
        claim = f"{name}: mean r of a family's scores under random and complete committees"
        yield Claim(claim, "imagenet", published.FAMILY_R, float(r.mean()), low, high, len(r))


def _convergence(growing: Mapping[str, pd.DataFrame]) -> Iterable[Claim]:
    for name, table in growing.items():
        means = table.groupby("size")["mean_average_precision"].mean()
        far = means.index[means < means.iloc[-1] - CONVERGED]
        size, whole = int(far.max()) + 1 if len(far) else 1, int(means.index.max())
        claim = f"{name}: members until the consensus's mAP is within {CONVERGED} of the complete committee's"
        for enough, where in _ENOUGH_MEMBERS.items():
            agrees = "-" if whole <= enough else "yes" if size <= enough else "no"
            note = f"the {enough} is the paper's ({where}), the bound of {CONVERGED} is ours"
            yield Claim(claim, "cub200", enough, size, n=whole, agrees=agrees, note=note)


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
