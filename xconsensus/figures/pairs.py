"""How similar the members' explanations are to each other: a matrix, families side by side."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.ticker import MaxNLocator

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.tables import EXPLAINERS
from xconsensus.published import ENSEMBLE

_COLUMNS = 3  # panels beside each other, at most
_LETTERS = 32  # of a member's name, at most; its number tells it apart


@style.own_settings()
def pairs(found: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], caption: str = "") -> style.Sheet:
    """The members' mean similarity to each other, by family and then accuracy: a panel an explainer.

    ``found`` maps an explainer's name to its pairs.csv and members.csv. A member's similarity to itself is left white.

    Raises InputError if there is no explainer.
    """
    if not found:
        raise InputError("pairs: no explainer has scores of pairs; score at least one")
    longest = max(len(_label(name)) for _, members in found.values() for name in members["member"])
    columns = min(len(found), _COLUMNS)
    left, gap, below, above = 0.07 * longest + 0.3, 0.35, 0.8, 0.3  # inches
    side = min(2.6, (style.FULL_WIDTH - left) / columns - gap)
    row = below + side + above
    width, height = style.FULL_WIDTH, row * math.ceil(len(found) / columns)
    figure = style.Sheet(figsize=(width, height))
    for place, (name, (table, members)) in enumerate(found.items()):
        down, across = divmod(place, columns)
        x, y = left + across * (side + gap), height - (down + 1) * row
        axes = figure.add_axes((x / width, (y + below) / height, side / width, side / height))
        order = members[members["member"] != ENSEMBLE].sort_values(["family", "accuracy"], kind="stable")["member"]
        matrix = table.pivot(index="member", columns="other", values="similarity").loc[[*order], [*order]]
        own = matrix.to_numpy(copy=True)
        own[range(len(own)), range(len(own))] = float("nan")
        image = axes.imshow(own, cmap="viridis", aspect="auto")
        size = min(style.SMALL, 45 * side / len(order))
        numbers = [str(number) for number in range(1, len(order) + 1)]
        axes.set_xticks(range(len(order)), numbers, fontsize=size)
        names = [f"{_label(member)} {number}" for member, number in zip(order, numbers, strict=True)]
        axes.set_yticks(range(len(order)), numbers if across else names, fontsize=size)
        under = figure.add_axes((x / width, (y + 0.42) / height, side / width, 0.08 / height))
        bar = figure.colorbar(image, cax=under, orientation="horizontal", ticks=MaxNLocator(4))
        bar.ax.tick_params(labelsize=style.SMALL)
        bar.set_label("Mean similarity", fontsize=style.SMALL)
        style.title(axes, EXPLAINERS.get(name, name))
    style.finish(figure, {}, caption)
    return figure


def _label(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
