"""How similar the members' explanations are to each other: a matrix, families side by side."""

from collections.abc import Mapping

import pandas as pd

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.tables import EXPLAINERS
from xconsensus.published import ENSEMBLE


@style.own_settings()
def pairs(found: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], caption: str = "") -> style.Sheet:
    """The members' mean similarity to each other, by family and then accuracy: a panel an explainer.

    ``found`` maps an explainer's name to its pairs.csv and members.csv. A member's similarity to itself is left white.

    Raises InputError if there is no explainer.
    """
    if not found:
        raise InputError("pairs: no explainer has scores of pairs; score at least one")
    figure = style.Sheet(figsize=(style.FULL_WIDTH, 0.9 + 0.85 * style.FULL_WIDTH / max(len(found), 2) + 0.6))
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, (table, members)) in zip(panels, found.items(), strict=True):
        order = members[members["member"] != ENSEMBLE].sort_values(["family", "accuracy"], kind="stable")["member"]
        matrix = table.pivot(index="member", columns="other", values="similarity").loc[[*order], [*order]].to_numpy()
        own = matrix.copy()
        own[range(len(own)), range(len(own))] = float("nan")
        image = axes.imshow(own, cmap="viridis")
        size = min(style.SMALL, 130 / len(order))
        axes.set_xticks(range(len(order)), [*order], rotation=90, fontsize=size)
        axes.set_yticks(range(len(order)), [*order], fontsize=size)
        figure.colorbar(image, ax=axes, shrink=0.7, label="Mean similarity")
        style.title(axes, EXPLAINERS.get(name, name))
    style.lay_out(figure)
    style.finish(figure, {}, caption)
    return figure
