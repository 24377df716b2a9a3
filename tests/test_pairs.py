"""The figure of the members' similarity to each other: what its matrix shows, and that it fits the page."""

import numpy as np
import pandas as pd
import pytest

from xconsensus.errors import InputError
from xconsensus.figures.pairs import pairs


def scored(names: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Members of two families by turns, worse and worse; two are the less similar the further apart they stand."""
    places = range(len(names))
    families = [("b", "a")[place % 2] for place in places]
    members = pd.DataFrame({"member": names, "family": families, "accuracy": np.linspace(0.9, 0.2, len(names))})
    values = [(names[i], names[j], 1 / (1 + abs(i - j))) for i in places for j in places]
    return pd.DataFrame(values, columns=["member", "other", "similarity"]), members


def test_rows_stand_by_family_then_accuracy() -> None:
    axes = pairs({"lime": scored(["p", "q", "r", "s"])}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["s 1", "q 2", "r 3", "p 4"]
    shown = axes.images[0].get_array()
    assert shown is not None
    drawn = np.ma.filled(shown, np.nan)
    far = np.array([[0, 2, 1, 3], [2, 0, 1, 1], [1, 1, 0, 2], [3, 1, 2, 0]])
    np.testing.assert_allclose(drawn[~np.eye(4, dtype=bool)], (1 / (1 + far))[~np.eye(4, dtype=bool)])
    assert np.isnan(drawn[np.eye(4, dtype=bool)]).all()


@pytest.mark.parametrize("panels", [1, 2, 3, 7])
@pytest.mark.parametrize("letters", [1, 40, 180])
def test_every_panel_and_label_is_on_the_page(panels: int, letters: int) -> None:
    found = {f"explainer{i}": scored([f"{j}" * letters for j in range(5)]) for i in range(panels)}
    figure = pairs(found)
    figure.canvas.draw()
    page = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert min(box.width, box.height) > 5
        assert page.padded(1).count_contains([(box.x0, box.y0), (box.x1, box.y1)]) == 2


def test_no_explainer_is_named() -> None:
    with pytest.raises(InputError, match="pairs: no explainer"):
        pairs({})
