"""What happens with other committees: their size (Figure 8), their members (sections 4.5.2 and 5.1)."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.tables import EXPLAINERS

# Columns of `diluted`: what its vertical axis says, and the columns of the table, circles first, then triangles
_DILUTED = (
    ("mAP of the consensus", ["mean_average_precision"]),
    ("Entropy; sd by mean", ["entropy", "spread"]),
    ("Consensus score", ["consensus_score", "random_score"]),
    ("r of score and accuracy", ["pearson_r", "spearman_r"]),
)
_CURVES = (
    ("mAP; entropy (1: constant); trained members' score; Pearson's r", "#0072B2", "o-"),
    ("sd of the consensus by its mean; random members' score; Spearman's r", "#D55E00", "^--"),
)


def fig08(trials: pd.DataFrame, members: int, caption: str = "") -> Figure:
    """The consensus's mAP against committee size: each trial, and mean and median of each size (Fig. 8).

    trials : `committees.growing_committees`' table: size, trial, mean_average_precision.
    members : the complete committee's size; its mAP is the dashed line, drawn if ``trials`` has that size.

    Raises InputError for an empty table.
    """
    if trials.empty:
        raise InputError("figure 8: no committees; choose at least one size")
    by_size = trials.groupby("size")["mean_average_precision"]
    means, medians = by_size.mean(), by_size.median()
    figure = Figure(figsize=(0.75 * style.FULL_WIDTH, 2.9))
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
    (mean,) = axes.plot(means.index, means, color="#009E73", linewidth=1.6)
    (median,) = axes.plot(
        medians.index,
        medians,
        linestyle="none",
        marker="^",
        markersize=5,
        color="#E69F00",
        markeredgecolor=style.INK,
        markeredgewidth=0.4,
    )
    entries = {"One random committee": dots, "Mean": mean, "Median": median}
    if members in means.index:
        complete = axes.axhline(means[members], color="#D55E00", linestyle="--", linewidth=1.2)
        entries[f"Complete committee ({members} members)"] = complete
    axes.set_xlabel("Members of the committee")
    axes.set_ylabel("mAP of the consensus to the segmentation")
    style.tidy(axes)
    style.lay_out(figure)
    style.finish(figure, entries, caption)
    return figure


def sec452(trials: Mapping[str, pd.DataFrame], caption: str = "") -> Figure:
    """How a family's consensus scores under random committees correlate with the complete one's (section 4.5.2).

    ``trials`` maps an explainer's name to `committees.agreement`'s table; a panel each, Pearson's r against size.

    Raises InputError if there is no explainer.
    """
    if not trials:
        raise InputError("section 4.5.2: no explainer has scores; score at least one")
    width = style.FULL_WIDTH if len(trials) > 1 else style.COLUMN_WIDTH
    figure = Figure(figsize=(width, 2.4))
    panels = figure.subplots(1, len(trials), squeeze=False, sharey=True)[0]
    for axes, (name, table) in zip(panels, trials.items(), strict=True):
        r = table["pearson_r"]
        axes.plot(table["size"], r, linestyle="none", marker="o", markersize=4.5, color="#0072B2", alpha=0.6)
        axes.axhline(r.mean(), color="#D55E00", linestyle="--", linewidth=1.2)
        axes.set_xlabel("Members of the random committee")
        style.tidy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        title = f"{EXPLAINERS.get(name, name)}\nmean r = {r.mean():.3f}, sd = {r.std():.3f}, {len(r)} committees"
        style.title(axes, title)
    panels[0].set_ylabel("r with scores of the complete committee")
    style.lay_out(figure)
    style.finish(figure, {}, caption)
    return figure


def diluted(trials: Mapping[str, pd.DataFrame], caption: str = "") -> Figure:
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
    figure = Figure(figsize=(style.FULL_WIDTH, 2.1 * len(trials)))
    rows = figure.subplots(len(trials), len(columns), squeeze=False, sharex=True)
    entries = {}
    for panels, (name, table) in zip(rows, trials.items(), strict=True):
        by_share = table.assign(share=100 * table["share"]).groupby("share")
        for axes, (label, shown) in zip(panels, columns, strict=True):
            for column, (words, colour, line) in zip(shown, _CURVES, strict=False):
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
