"""The paper's claims beside what a run found: published value, own value, and whether they point the same way."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from xconsensus import published, tables


def comparison(members: Mapping[str, pd.DataFrame], level: float = 0.95) -> pd.DataFrame:
    """One row a claim of the paper that ``members`` (as in `tables`) can be held against.

    Runs with masks stand beside CUB-200-2011, those without beside ImageNet. The claims are Pearson's r of Figures 4,
    5, 6 and 10, and by how much the consensus's mAP exceeds the best member's (Fig. 4; published best from the
    legible rows of Table 2).

    Columns: claim, published_on, published, here, low, high (interval of ``level``, NaN where there is none), n
    (members), agrees: yes where both have the same sign and the interval excludes 0, "sign only" where the interval
    holds 0 or there is none, no otherwise.
    """
    column = "mean_average_precision"
    precisions = [name for name, table in members.items() if column in table and table[column].notna().any()]
    dataset = "cub200" if precisions else "imagenet"
    rows = _correlations(members, dataset, level)
    paper = published.members(dataset)
    for name in precisions:
        if name in paper:
            here, n = _margin(members[name]), len(members[name]) - 1
            claim = f"{name}: consensus's mAP above the best member's"
            rows.append((claim, dataset, _margin(paper[name]), here, np.nan, np.nan, n))
    columns = ["claim", "published_on", "published", "here", "low", "high", "n"]
    table = pd.DataFrame(rows, columns=columns)
    table["agrees"] = [_agrees(row) for row in table.to_dict("records")]
    return table


def _correlations(members: Mapping[str, pd.DataFrame], dataset: str, level: float) -> list[tuple[Any, ...]]:
    found = tables.correlations(members, dataset, level)
    if "published_r" not in found:
        return []
    return [
        (f"r of {row.x} and {row.y}", dataset, row.published_r, row.pearson_r, row.pearson_low, row.pearson_high, row.n)
        for row in found[found["published_r"].notna()].itertuples()
    ]


def _margin(table: pd.DataFrame) -> float:
    values = table.set_index("member")["mean_average_precision"]
    return float(values[tables.ENSEMBLE] - values.drop(tables.ENSEMBLE).max())


def _agrees(row: Mapping[Any, Any]) -> str:
    if np.sign(row["published"]) != np.sign(row["here"]):
        return "no"
    return "yes" if row["low"] * row["high"] > 0 else "sign only"
