"""What happens with other committees (Figure 8, sections 4.5.2 and 5.1), and with several objects (5.1)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.tables import EXPLAINERS, group_names, masks_of

# Columns of `diluted`: what its vertical axis says, and the columns of the table, circles first, then triangles
_DILUTED = (
    ("mAP of the consensus", ["mean_average_precision"]),
    ("Entropy; sd by mean", ["entropy", "spread"]),
    ("Consensus score", ["consensus_score", "random_score"]),
    ("r of score and accuracy", ["pearson_r", "spearman_r"]),
)
_LINES = (
    ("mAP; entropy (1: constant); trained members' score; Pearson's r", style.BLUE, "o-"),
    ("sd of the consensus by its mean; random members' score; Spearman's r", style.RED, "^--"),
)


@style.own_settings()
def fig08(trials: pd.DataFrame, members: int, caption: str = "") -> style.Sheet:
    """The consensus's mAP against committee size: each trial, and mean and median of each size (Fig. 8).

    trials : `committees.growing_committees`' table: size, trial, mean_average_precision.
    members : the complete committee's size; its mAP is the dashed line, drawn if ``trials`` has that size.

    Raises InputError for an empty table.
    """
    if trials.empty:
        raise InputError("figure 8: no committees; choose at least one size")
    by_size = trials.groupby("size")["mean_average_precision"]
    means, medians = by_size.mean(), by_size.median()
    figure = style.Sheet(figsize=(0.75 * style.FULL_WIDTH, 2.9))
    axes = figure.subplots()
    (dots,) = axes.plot(
        trials["size"],
        trials["mean_average_precision"],
        linestyle="none",
        marker="o",
        markersize=3,
        markerfacecolor="#999999",
        markeredgecolor="none",
        alpha=0.4,
    )
    (mean,) = axes.plot(means.index, means, color=style.GREEN, linewidth=1.6)
    (median,) = axes.plot(
        medians.index,
        medians,
        linestyle="none",
        marker="^",
        markersize=5,
        color=style.GOLD,
        markeredgecolor=style.INK,
        markeredgewidth=0.4,
    )
    entries = {"One random committee": dots, "Mean": mean, "Median": median}
    if members in means.index:
        complete = axes.axhline(means[members], color=style.RED, linestyle="--", linewidth=1.2)
        entries[f"Complete committee ({members} members)"] = complete
    axes.set_xlabel("Members of the committee")
    axes.set_ylabel(f"mAP of the consensus to the {masks_of(trials)}")
    style.tidy(axes)
    style.lay_out(figure)
    style.finish(figure, entries, caption)
    return figure


@style.own_settings()
def sec452(
    trials: Mapping[str, pd.DataFrame], caption: str = "", stated: Mapping[str, float] | None = None
) -> style.Sheet:
    """How a family's consensus scores under random committees correlate with the complete one's (section 4.5.2).

    ``trials`` maps an explainer's name to `committees.agreement`'s table; a panel each, Pearson's r against size.
    ``stated`` is the paper's mean r of some panels, a line of theirs.

    Raises InputError if there is no explainer.
    """
    if not trials:
        raise InputError("section 4.5.2: no explainer has scores; score at least one")
    width = style.FULL_WIDTH if len(trials) > 1 else style.COLUMN_WIDTH
    figure = style.Sheet(figsize=(width, 2.4))
    panels = figure.subplots(1, len(trials), squeeze=False, sharey=True)[0]
    entries = {}
    for axes, (name, table) in zip(panels, trials.items(), strict=True):
        r = table["pearson_r"]
        points = {"linestyle": "none", "marker": "o", "markersize": 4.5, "color": style.BLUE, "alpha": 0.6}
        (entries["One random committee"],) = axes.plot(table["size"], r, **points)
        entries["Their mean"] = axes.axhline(r.mean(), color=style.RED, linestyle="--", linewidth=1.2)
        if stated and name in stated:
            paper = f"The paper's mean, {stated[name]:g}, by {EXPLAINERS.get(name, name)}"
            entries[paper] = axes.axhline(stated[name], color=style.COLOURS[6], linestyle=":", linewidth=1.4)
        axes.set_xlabel("Members of the random committee")
        style.tidy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        title = f"{EXPLAINERS.get(name, name)}\nmean r = {r.mean():.3f}, sd = {r.std():.3f}, {len(r)} committees"
        style.title(axes, title)
    panels[0].set_ylabel("r with scores of the complete committee")
    style.lay_out(figure)
    style.finish(figure, entries, caption)
    return figure


_GROUPS = {"objects": "Objects in the image", "share": "Share of the image that the explained one covers"}
_CURVES = (("consensus", "Consensus", style.RED, "*", 8), ("best", "Best member", style.BLUE, "o", 4))


@style.own_settings()
def sec51(several: Mapping[str, pd.DataFrame], caption: str = "", level: float = 0.95) -> style.Sheet:
    """Average precision of the consensus and the best member by number of objects, and by share covered (section 5.1).

    ``several`` maps an explainer's name to `several.several_table`; a row each. Points are means of a group of images,
    bars their intervals of ``level``.

    Raises InputError if there is no explainer.
    """
    if not several:
        raise InputError("section 5.1: no explainer has scores of several objects; score at least one")
    figure = style.Sheet(figsize=(style.FULL_WIDTH, 2.3 * len(several)))
    panels = figure.subplots(len(several), len(_GROUPS), squeeze=False, sharey=True)
    entries = {}
    for row, (name, table) in zip(panels, several.items(), strict=True):
        for axes, (by, words) in zip(row, _GROUPS.items(), strict=True):
            group = table[table["by"] == by]
            places = np.arange(len(group))
            for shift, (column, label, colour, marker, size) in zip((-0.08, 0.08), _CURVES, strict=True):
                line = {"color": colour, "marker": marker, "markersize": size, "linewidth": 0.8}
                (entries[label],) = axes.plot(places + shift, group[column], **line)
                ends = group[f"{column}_low"], group[f"{column}_high"]
                axes.vlines(places + shift, *ends, colors=colour, linewidth=1.2, alpha=0.6)
            (entries["A map of one value"],) = axes.plot(places, group["chance"], color="#999999", linestyle=":")
            style.tidy(axes)
            names = [f"{each}\nn = {n}" for each, n in zip(group_names(group), group["images"], strict=True)]
            axes.set_xticks(places, names)
            axes.set_xlabel(words)
            axes.set_xlim(-0.5, len(group) - 0.5)
        row[0].set_ylabel("mAP to the segmentation")
        style.title(row[0], f"{EXPLAINERS.get(name, name)}, best member: {table['best_member'].iloc[0]}")
    panels[0][0].set_ylim(bottom=0)
    style.lay_out(figure)
    style.finish(figure, entries, "; ".join(filter(None, [caption, f"bars: {100 * level:g} % intervals over images"])))
    return figure


@style.own_settings()
def diluted(trials: Mapping[str, pd.DataFrame], caption: str = "") -> style.Sheet:
    """What members of random weights do to consensus and scores, against their share of the voters (section 5.1).

    ``trials`` maps an explainer's name to diluted.csv (`stages.score.make_diluted`); a row of panels each: the mean of
    the trials and, as a band, the least and the greatest. Panels without numbers are left out, as mAP without masks.

    Raises InputError if there is no explainer.
    """
    if not trials:
        raise InputError("section 5.1: no explainer has scores; score at least one")
    columns = [
        (label, shown)
        for label, shown in _DILUTED
        if any(table[shown].notna().any(axis=None) for table in trials.values())
    ]
    figure = style.Sheet(figsize=(style.FULL_WIDTH, 2.1 * len(trials)))
    rows = figure.subplots(len(trials), len(columns), squeeze=False, sharex=True)
    entries = {}
    for panels, (name, table) in zip(rows, trials.items(), strict=True):
        by_share = table.assign(share=100 * table["share"]).groupby("share")
        for axes, (label, shown) in zip(panels, columns, strict=True):
            for column, (words, colour, line) in zip(shown, _LINES, strict=False):
                values = by_share[column].agg(["mean", "min", "max"])
                axes.fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.15, linewidth=0)
                (drawn,) = axes.plot(values.index, values["mean"], line, color=colour, markersize=3.5, linewidth=1.2)
                entries[words] = drawn
            axes.set_ylabel(label)
            style.tidy(axes)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        style.title(panels[0], EXPLAINERS.get(name, name))
    for axes in rows[-1]:
        axes.set_xlabel("Random voters, %")
    style.lay_out(figure)
    style.finish(figure, entries, caption)
    return figure
