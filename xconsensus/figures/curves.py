"""What happens with other committees: their size (Figure 8), their members (section 4.5.2)."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.tables import EXPLAINERS


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
