"""Curves over committee sizes (Figure 8)."""

import pandas as pd
from matplotlib.figure import Figure

from xconsensus.errors import InputError
from xconsensus.figures import style


def fig08(trials: pd.DataFrame, members: int, caption: str = "") -> Figure:
    """The consensus's mAP against committee size: each trial, and mean and median of each size (Fig. 8).

    trials : `experiments.growing_committees`' table: size, trial, mean_average_precision.
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
    style.finish(figure, entries, caption)
    return figure
