"""What happens with other committees: their size (Figure 8), their members (section 4.5.2)."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.ticker import MaxNLocator

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.tables import EXPLAINERS


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
    axes.set_ylabel("mAP of the consensus to the segmentation")
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
