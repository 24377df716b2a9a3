"""Members as points: accuracy, consensus scores and mAP against each other (Figures 4, 5, 6, 7, 10, 11).

``members`` maps a panel's name, an explainer's as a rule, to its table: member, family, accuracy,
consensus_score, where known consensus_score_low and consensus_score_high, and where masks exist
mean_average_precision; the row with member "consensus" is the committee itself. A table is one panel; points
with a missing coordinate are neither drawn nor correlated.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.names import Label, write_names
from xconsensus.figures.tables import EXPLAINERS, masks_of
from xconsensus.published import ENSEMBLE
from xconsensus.scores.metrics import ENOUGH, Correlation, correlation

_ACCURACY, _SCORE, _MAP = "accuracy", "consensus_score", "mean_average_precision"
_AXES = {
    _ACCURACY: "Accuracy",
    _SCORE: "Consensus score",
    _MAP: "mAP to the {masks}",
}


@style.own_settings()
def fig04(members: Mapping[str, pd.DataFrame], caption: str = "", level: float = 0.95) -> style.Sheet:
    """Accuracy against the mAP of explanations to the segmentation, with the point of the consensus (Fig. 4).

    The consensus's point has the committee's ensemble accuracy and the consensus's own mAP; the correlation is
    without it. Raises InputError for tables without masks.
    """
    return _panels(members, _MAP, _ACCURACY, caption, level)


@style.own_settings()
def fig05(
    members: Mapping[str, pd.DataFrame],
    caption: str = "",
    level: float = 0.95,
    stated: Mapping[str, float] | None = None,
) -> style.Sheet:
    """Accuracy against consensus score, bars its interval (Fig. 5; by data set 11).

    ``stated`` is the paper's r of some panels, which their titles show too.
    """
    return _panels(members, _SCORE, _ACCURACY, caption, level, stated=stated)


@style.own_settings()
def fig07(
    members: Mapping[str, pd.DataFrame], caption: str = "", level: float = 0.95, families: Iterable[str] = ()
) -> style.Sheet:
    """`fig05` of a family by its own vote and everybody's: a row an explainer, whose panels share their axes (Fig. 7).

    ``families`` are all of the committee: the one that is shown looks as it does among them.
    """
    return _panels(members, _SCORE, _ACCURACY, caption, level, families=families, paired=True)


@style.own_settings()
def fig06(members: Mapping[str, pd.DataFrame], caption: str = "", level: float = 0.95) -> style.Sheet:
    """Consensus score of the second explainer against the first's, in one panel (Fig. 6).

    Raises InputError unless ``members`` has exactly two explainers that share a member.
    """
    if len(members) != 2:
        raise InputError(f"figure 6 compares two explainers, not {len(members)}; choose two that have scores")
    (first, table), (second, other) = members.items()
    both = table.merge(other, on="member", suffixes=("", "_y"))
    x, y = EXPLAINERS.get(first, first), EXPLAINERS.get(second, second)
    return _panels({f"{y} against {x}": both}, _SCORE, f"{_SCORE}_y", caption, level, (f"{x} score", f"{y} score"))


@style.own_settings()
def fig10(members: Mapping[str, pd.DataFrame], caption: str = "", level: float = 0.95) -> style.Sheet:
    """Mean average precision to the segmentation against consensus score (Fig. 10).

    Raises InputError for tables without masks.
    """
    return _panels(members, _SCORE, _MAP, caption, level)


def _panels(
    members: Mapping[str, pd.DataFrame],
    x: str,
    y: str,
    caption: str,
    level: float,
    labels: tuple[str, str] | None = None,
    stated: Mapping[str, float] | None = None,
    families: Iterable[str] = (),
    paired: bool = False,
) -> style.Sheet:
    """A panel a table of two columns against each other; see `fig04` to `fig10`.

    Parameters
    ----------
    members : tables, by the panels' names.
    x, y : columns.
    caption : the line below; what bars and brackets are is added.
    level : of the intervals in titles, and that of the bars.
    labels : of the axes; None: the columns in words.
    stated : the paper's r of a panel, for its title.
    families : those that have symbols besides the members' own.
    paired : two panels a row, which share their axes.
    """
    if not members:
        raise InputError("figure: no explainer has scores; score at least one")
    for name, table in members.items():
        if absent := [column for column in (x, y) if column not in table or table[column].isna().all()]:
            raise InputError(f"figure: {name} has no {absent[0]}; score it again, for mAP with masks")
    own = [table[table["member"] != ENSEMBLE] for table in members.values()]
    symbols = style.symbols([*families, *pd.concat([table["family"] for table in own])])
    columns = 2 if paired or len(members) == 4 else min(len(members), 3)
    rows = -(-len(members) // columns)
    width = style.COLUMN_WIDTH if columns == 1 else style.FULL_WIDTH
    figure = style.Sheet(figsize=(width, rows * (0.62 * width / columns + 0.75)))
    share: Any = "row" if paired else False
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)
    for axes in panels[len(members) :]:
        axes.remove()
    entries = {}
    for axes, (name, table), its_members in zip(panels, members.items(), own, strict=False):
        drawn = its_members.dropna(subset=[x, y])
        _points(axes, drawn, x, y, symbols)
        entries.update({family: symbol.line() for family, symbol in symbols.items() if family in set(drawn["family"])})
        if len(_consensus(table, x, y)):
            axes.add_line(_star(*_consensus(table, x, y)[[x, y]].to_numpy(dtype=float).T))
            axes.update_datalim(_consensus(table, x, y)[[x, y]].to_numpy(dtype=float))
        axes.margins(0.08)
        axes.autoscale_view()
        axes.set_xlabel(labels[0] if labels else _AXES[x].format(masks=masks_of(table)))
        axes.set_ylabel(labels[1] if labels else _AXES[y].format(masks=masks_of(table)))
        style.tidy(axes)
        axes.tick_params(labelleft=True)
        title = _title(EXPLAINERS.get(name, name), correlation(drawn[x], drawn[y], level), short=columns > 2)
        title += f"\nthe paper's $r$ = {stated[name]:.3f}" if stated and name in stated else ""
        style.title(axes, title, math=True)
    style.lay_out(figure)
    left_out = [write_names(axes, _labels(table, x, y)) for axes, table in zip(panels, members.values(), strict=False)]
    entries = {family: entries[family] for family in symbols if family in entries}
    named = _named([table[[x, y]].dropna() for table in own], left_out)
    style.finish(figure, entries, "; ".join(filter(None, [caption, *_intervals(panels, level), named])))
    return figure


def _intervals(panels: Sequence[Axes], level: float) -> list[str]:
    """What bars at points and brackets in titles are, where panels have them, for the caption."""
    bars = any(axes.collections for axes in panels)
    brackets = any("[" in line for axes in panels for line in axes.get_title().splitlines()[1:])
    return [
        *([f"bars: {100 * level:g} % intervals over images"] if bars else []),
        *([f"brackets: {100 * level:g} % intervals over members"] if brackets else []),
    ]


def _points(axes: Axes, members: pd.DataFrame, x: str, y: str, symbols: Mapping[str, style.Symbol]) -> None:
    """One artist a family, and the scores' intervals along the axis that shows scores."""
    size = 5.5 if len(members) <= 20 else 4.5
    for family, group in members.groupby("family"):
        symbol = symbols[str(family)]
        axes.add_line(symbol.line(group[x], group[y], size))
        axes.update_datalim(group[[x, y]].to_numpy(dtype=float))
        for column, draw, across in ((x, axes.hlines, group[y]), (y, axes.vlines, group[x])):
            low, high = (column.replace(_SCORE, f"{_SCORE}_{end}") for end in ("low", "high"))
            if column.startswith(_SCORE) and low in group and high in group:
                draw(across, group[low], group[high], colors=symbol.colour, linewidth=0.6, alpha=0.45, zorder=2)


def _consensus(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The committee's own row, or none where it lacks a coordinate."""
    return table[table["member"] == ENSEMBLE].dropna(subset=[x, y])


def _labels(table: pd.DataFrame, x: str, y: str) -> list[Label]:
    """The name of each point of a panel, the consensus's in bold."""
    return [
        Label("Consensus", x, y, 6.0, bold=True) if name == ENSEMBLE else Label(name, x, y)
        for name, x, y in table.dropna(subset=[x, y])[["member", x, y]].itertuples(index=False)
    ]


def _named(drawn: Sequence[pd.DataFrame], left_out: Sequence[Sequence[str]]) -> str:
    """The end of the caption where not all members have their names: how many have, in each panel."""
    if not any(left_out):
        return ""
    counts = [f"{len(table) - len(names)} of {len(table)}" for table, names in zip(drawn, left_out, strict=True)]
    return f"named: {' and '.join(counts)} members, the extremes first"


def _star(x: ArrayLike, y: ArrayLike) -> Line2D:
    return Line2D(
        np.asarray(x),
        np.asarray(y),
        linestyle="none",
        marker="*",
        markersize=11,
        markerfacecolor=style.GOLD,
        markeredgecolor="black",
        markeredgewidth=0.8,
        zorder=4,
    )


def _title(name: str, agreement: Correlation, short: bool) -> str:
    """Explainer, and both coefficients with interval and p, as far as they have them; short: without the words."""
    a = agreement
    pearson, spearman = ("$r$", r"$\rho$") if short else ("Pearson $r$", r"Spearman $\rho$")
    return "\n".join(
        [
            f"{name}, n = {a.n}".replace("$", r"\$"),
            pearson + _evidence(a.n, a.pearson_r, a.pearson_low, a.pearson_high, a.pearson_p),
            spearman + _evidence(a.n, a.spearman_r, a.spearman_low, a.spearman_high, a.spearman_p),
        ]
    )


def _evidence(n: int, r: float, low: float, high: float, p: float) -> str:
    """What follows a coefficient's symbol: its value, where there is one its interval, and p; of few pairs no p."""
    if n < ENOUGH:
        return f"{_value(r)}, n too small"
    if np.isnan(r):
        return _value(r)
    interval = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    # Beyond 8 pairs, Pearson's p of exactly proportional lists is 0 by the t distribution.
    return f"{_value(r)}{interval}, p {'< 1e-99' if p < 1e-99 else f'= {p:.1g}'}"


def _value(r: float) -> str:
    return " undefined" if np.isnan(r) else f" = {r:.3f}"
