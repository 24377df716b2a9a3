"""The paper's tables from the members' scores, and their rendering as Markdown, LaTeX and plain text.

``members`` maps an explainer's name ("lime", "smoothgrad") to its table: member, family, accuracy,
consensus_score, consensus_score_low, consensus_score_high and, where masks exist, mean_average_precision; its
last row is the committee itself, member "consensus".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd

from xconsensus import published
from xconsensus.errors import InputError
from xconsensus.published import ENSEMBLE
from xconsensus.scores.estimation import SCORE
from xconsensus.scores.measures import with_accuracy
from xconsensus.scores.metrics import Correlation, correlation
from xconsensus.scores.rules import by_rule
from xconsensus.scores.several import STARTS
from xconsensus.scores.subsets import subsets as subsets_of

EXPLAINERS = {"lime": "LIME", "smoothgrad": "SmoothGrad"}


def kind_of(explainer: str, kinds: Mapping[str, str] | None) -> str:
    """What the paper calls an explainer of this name: lime for every LIME, whatever its settings are called.

    ``kinds`` maps names to methods; those that it lacks, as those of the paper's own numbers, are methods themselves.
    """
    return (kinds or {}).get(explainer, explainer)


def table1(
    members: Mapping[str, pd.DataFrame],
    here: bool = True,
    kinds: Mapping[str, str] | None = None,
    titles: Mapping[str, str] = EXPLAINERS,
) -> pd.DataFrame:
    """Table 1: ranks (scores) of the paper's five models, those of the paper above, those of ``members`` below.

    Without ``here``, as where the members are the paper's own, the rows of the paper alone. ``kinds`` are as
    `kind_of` takes them, ``titles`` name explainers.

    Returns text cells, a row a measure and a column a model; empty where the committee lacks the model. A member
    is that model if its name is the same but for case and punctuation; ranks are among the members found.
    """
    paper = published.table1().set_index("model")
    rows = {
        "Network Dissection (paper)": [str(rank) for rank in paper["network_dissection_rank"]],
        "User study (paper)": _ranked(paper["user_study_score"]),
    }
    for kind in (kind_of(explainer, kinds) for explainer in members):
        if f"consensus_score_{kind}" in paper:
            rows[f"Consensus {EXPLAINERS[kind]} (paper)"] = _ranked(paper[f"consensus_score_{kind}"])
    for explainer, table in members.items() if here else ():
        rows[f"Consensus {titles.get(explainer, explainer)} (here)"] = _ranked(table1_scores(table))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(paper.index))
    return table.rename_axis(index="measure").reset_index()


def table1_scores(table: pd.DataFrame) -> "pd.Series[float]":
    """Consensus scores of table 1's five models in a members table, by the paper's names; NaN of those it lacks."""
    paper = published.table1()["model"]
    own = table.set_index(table["member"].map(_bare))["consensus_score"]
    own = own[~own.index.duplicated()].reindex([_bare(model) for model in paper])
    return own.set_axis(list(paper))


def table1_members(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are among the five models of table 1."""
    paper = {_bare(model) for model in published.table1()["model"]}
    return [name for name in names if _bare(name) in paper]


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _ranked(scores: "pd.Series[float]") -> list[str]:
    ranks = scores.rank(ascending=False, method="min")
    return ["" if np.isnan(score) else f"{rank:.0f} ({score:.3f})" for rank, score in zip(ranks, scores, strict=True)]


def table2(members: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 2, one row a member in the order given, the ensemble last.

    Columns: member, family, accuracy, consensus_score_<explainer> of each explainer, then
    mean_average_precision_<explainer> of those with masks. NaN where an explainer lacks the member. Where members see
    images of different sizes, input_size, in pixels, as text; where finetune prepared some, how: prepared.

    Raises InputError if there is no explainer, or two explainers disagree about a member's accuracy.
    """
    if not members:
        raise InputError("table 2: no explainer has scores; score at least one")
    columns = ["member", "family", "accuracy"]
    everyone = pd.concat([table[columns] for table in members.values()]).drop_duplicates("member")
    merged = everyone.sort_values("member", key=lambda names: names == ENSEMBLE, kind="stable")
    for table in members.values():
        own = merged["member"].map(table.set_index("member")["accuracy"])
        differs = merged["member"][(own - merged["accuracy"]).abs() > 1e-9]
        if len(differs):
            raise InputError(f"table 2: accuracy of {differs.iloc[0]} differs between explainers; score them again")
    for name in ("consensus_score", "mean_average_precision"):
        for explainer, table in members.items():
            if name in table and table[name].notna().any():
                merged[f"{name}_{explainer}"] = merged["member"].map(table.set_index("member")[name])
    sizes = pd.concat([table.set_index("member").get("input_size", pd.Series()) for table in members.values()]).dropna()
    if sizes.nunique() > 1:
        own = merged["member"].map(sizes[~sizes.index.duplicated()])
        merged["input_size"] = ["" if np.isnan(size) else f"{size:.0f}" for size in own]
    ways = pd.concat([table.set_index("member").get("prepared", pd.Series(dtype=object)) for table in members.values()])
    if len(ways := ways.dropna()):
        merged["prepared"] = merged["member"].map(ways[~ways.index.duplicated()]).fillna("")
    return merged.reset_index(drop=True)


def correlations(
    members: Mapping[str, pd.DataFrame],
    dataset: str | None = None,
    level: float = 0.95,
    kinds: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """All correlations of Figures 4, 5, 6 and 10 over the members, the ensemble left out.

    Returns one row a pair of `table2` columns: x, y, and the fields of `metrics.Correlation`. For a ``dataset`` of
    the paper the column published_r holds the paper's Pearson r of explainers of these ``kinds`` (`kind_of`), NaN where
    it states none.
    """
    table = table2(members)
    table = table[table["member"] != ENSEMBLE]
    pairs: list[tuple[str, str]] = []
    for explainer in members:
        score, precision = f"consensus_score_{explainer}", f"mean_average_precision_{explainer}"
        pairs += [(score, "accuracy"), (precision, "accuracy"), (score, precision)]
    pairs += [(f"consensus_score_{a}", f"consensus_score_{b}") for a, b in combinations(members, 2)]
    rows = [
        {"x": x, "y": y, **asdict(correlation(table[x], table[y], level))}
        for x, y in pairs
        if x in table and y in table
    ]
    result = pd.DataFrame(rows, columns=["x", "y", *Correlation.__annotations__])
    paper = published.correlations(dataset) if dataset else pd.DataFrame()
    if len(paper):
        stated = paper.set_index(["x", "y"])["pearson_r"]
        called = {
            f"{column}_{name}": f"{column}_{kind_of(name, kinds)}"
            for column in ("consensus_score", "mean_average_precision")
            for name in members
        }
        pairs = [tuple(called.get(each, each) for each in pair) for pair in zip(result["x"], result["y"], strict=True)]
        result["published_r"] = [stated.get(pair, np.nan) for pair in pairs]
    return result


def masks_of(table: pd.DataFrame) -> str:
    """What the average precisions in a table of scores are taken to: boxes, or the segmentation."""
    return str(table["masks"].iloc[0]) if "masks" in table else "segmentation"


def naming_masks(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """A table whose columns, and texts, of mean average precision say to which ``kind`` of masks, as boxes; empty: as
    it is.
    """
    if not kind:
        return table
    words = {"mean_average_precision": f"mean_average_precision_to_{kind}", "mAP": f"mAP to {kind}"}
    cells = table.replace(words, regex=True)
    return cells.rename(columns=lambda name: str(name).replace(*next(iter(words.items()))))


def subsets(members: Mapping[str, pd.DataFrame], level: float = 0.95) -> pd.DataFrame:
    """`scores.subsets.subsets` of each explainer's members, the ensemble left out, with a first column explainer."""
    tables = []
    for name, table in members.items():
        own = table[table["member"] != ENSEMBLE]
        tables.append(subsets_of(own["consensus_score"], own["accuracy"], level).assign(explainer=name))
    found = pd.concat(tables, ignore_index=True)
    return found[["explainer", *found.columns.drop("explainer")]]


def several(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`several.several_table` of each explainer, one below the other, the groups named (section 5.1)."""
    named = [table.assign(explainer=name, group=group_names(table)) for name, table in tables.items()]
    table = pd.concat(named).drop(columns="start")
    return table[["explainer", "by", "group", *table.columns.difference(["explainer", "by", "group"], sort=False)]]


def group_names(table: pd.DataFrame) -> list[str]:
    """The groups of a `several.several_table` in words: 3 - 4 objects, 5 - 10 % of the image."""
    return [_group_name(by, start) for by, start in zip(table["by"], table["start"], strict=True)]


def _group_name(by: str, start: float) -> str:
    starts = STARTS[by]
    end = next((each for each in starts if each > start), None)
    if by == "share":
        return f"{100 * start:g} - {100 * (end or 1):g} %"
    return f"{start:g} or more" if end is None else f"{start:g}" if end == start + 1 else f"{start:g} - {end - 1:g}"


def measures(
    members: Mapping[str, pd.DataFrame], measured: Mapping[str, pd.DataFrame], level: float = 0.95
) -> pd.DataFrame:
    """`scores.measures.with_accuracy` of each explainer's members.csv and measures.csv, one below the other."""
    return _one_below_the_other({name: with_accuracy(measured[name], members[name], level) for name in members})


def rules(
    members: Mapping[str, pd.DataFrame], by_rules: Mapping[str, pd.DataFrame], level: float = 0.95
) -> pd.DataFrame:
    """`scores.rules.by_rule` of each explainer's members.csv and rules.csv, one below the other."""
    return _one_below_the_other({name: by_rule(by_rules[name], members[name], level) for name in by_rules})


def intervals(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each explainer's intervals.csv, one below the other."""
    return _one_below_the_other(tables)


def baselines(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each explainer's baselines.csv, one below the other."""
    return _one_below_the_other(tables).fillna({"members_below": ""})


def _one_below_the_other(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The explainers' tables in one, whose first column names the explainer."""
    table = pd.concat([table.assign(explainer=name) for name, table in tables.items()], ignore_index=True)
    return table[["explainer", *table.columns.drop("explainer")]]


def estimation(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How well accuracy is estimated without or from few labels: each explainer's estimation.csv, one below the other.

    What does not rest on explanations stands there once; scores come last, each with its explainer.
    """
    parts = [next(iter(tables.values())).query("estimator != @SCORE")]
    for name, table in tables.items():
        parts.append(table.query("estimator == @SCORE").assign(estimator=f"{SCORE}, {EXPLAINERS.get(name, name)}"))
    return pd.concat(parts, ignore_index=True)


def sigma(images: pd.DataFrame, members: pd.DataFrame, sigma: float) -> pd.DataFrame:
    """What the RBF similarity's sigma does to consensus scores: halved, as it is, and doubled.

    ``images`` has similarity of each image_id and member at ``sigma``. The similarity exp(-d^2 / (2 sigma^2)) at
    factor f times sigma is its power 1 / f^2: nothing is compared anew.

    Returns one row a sigma: sigma, median_score and the lowest and highest of the members, pearson_r and spearman_r
    of score and accuracy, and rank_agreement, Spearman's with the scores at ``sigma``.
    """
    own = images[images["member"] != ENSEMBLE]
    accuracy = members.set_index("member")["accuracy"]
    scores = {
        factor: (own["similarity"] ** factor**-2).groupby(own["member"]).mean().reindex(accuracy.index.drop(ENSEMBLE))
        for factor in (0.5, 1.0, 2.0)
    }
    rows = []
    for factor, score in scores.items():
        with_accuracy = correlation(score, accuracy[score.index])
        agreement = correlation(score, scores[1.0]).spearman_r
        values = (float(score.median()), float(score.min()), float(score.max()))
        rows.append((factor * sigma, *values, with_accuracy.pearson_r, with_accuracy.spearman_r, agreement))
    columns = ["sigma", "median_score", "lowest_score", "highest_score", "pearson_r", "spearman_r", "rank_agreement"]
    return pd.DataFrame(rows, columns=columns)
