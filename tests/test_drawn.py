"""A figure is drawn again where what it shows has changed, and only there."""

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import Project

from xconsensus.figures import fingerprint as module
from xconsensus.figures.fingerprint import fingerprint
from xconsensus.figures.gallery import Row, Tile
from xconsensus.figures.index import FIGURES, printed
from xconsensus.figures.style import missing_letters
from xconsensus.store.drawn import drawn_in
from xconsensus.store.files import read_csv, write_csv

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
TABLE = pd.DataFrame({"member": ["a", "b"], "accuracy": [0.5, 0.25]})


@dataclasses.dataclass
class Both:
    table: pd.DataFrame
    image: Any


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TABLE, TABLE.assign(accuracy=[0.5, 0.26])),
        (TABLE, TABLE.rename(columns={"accuracy": "score"})),
        (TABLE, TABLE.iloc[::-1]),
        (IMAGE, IMAGE + 1),
        (IMAGE, IMAGE.astype(np.int16)),
        (IMAGE, IMAGE.reshape(3, 4, 4)),
        ("ab", "ac"),
        (1, 1.0),
        (1, True),
        (0.1, 0.1 + 1e-16 * 2),
        (None, "None"),
        (["a", "b"], ["ab"]),
        ([["a"], "b"], ["a", ["b"]]),
        ({"a": 1}, {"a": 2}),
        (Tile("a", IMAGE[..., 0] / 2), Tile("b", IMAGE[..., 0] / 2)),
        (Row("x", IMAGE, [], [IMAGE[..., 0] > 3]), Row("x", IMAGE, [], [IMAGE[..., 0] > 6])),
        (Both(TABLE, IMAGE), Both(TABLE, IMAGE + 1)),
    ],
)
def test_what_differs_has_another_fingerprint_and_a_copy_the_same(one: Any, other: Any) -> None:
    assert fingerprint("fig05", (one,)) != fingerprint("fig05", (other,))
    assert fingerprint("fig05", (one,)) != fingerprint("fig06", (one,))
    copy = one.copy() if hasattr(one, "copy") else one
    assert fingerprint("fig05", (one,)) == fingerprint("fig05", (copy,))


def test_matplotlib_and_the_drawing_code_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("fig05", (TABLE,))
    monkeypatch.setattr(mpl, "__version__", "0.0")
    assert fingerprint("fig05", (TABLE,)) != before
    monkeypatch.undo()
    monkeypatch.setattr(module, "_code", lambda: "other")
    assert fingerprint("fig05", (TABLE,)) != before


def test_what_has_no_fingerprint_is_a_defect() -> None:
    with pytest.raises(TypeError, match="object"):
        fingerprint("fig05", (object(),))


def test_equal_figures_are_equal_bytes_in_both_formats_without_a_date() -> None:
    table = pd.DataFrame({"size": [1, 1, 2], "trial": [0, 1, 0], "mean_average_precision": [0.2, 0.4, 0.5]})
    first, second = (printed("fig08", (table, 2, "caption")) for _ in range(2))
    assert first == second
    assert first[".png"].startswith(b"\x89PNG")
    assert first[".pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in first[".pdf"]


def test_signs_and_letters_without_a_picture_are_text(recwarn: pytest.WarningsRecorder) -> None:
    names = ["a$_$b", "x^2_{i", "50%&#~", "網 🙂", r"\\frac $\\", "plain"]
    table = pd.DataFrame({"member": names, "family": [f"{name} $^$" for name in names], "accuracy": 0.5})
    table["consensus_score"] = [0.1, 0.3, 0.2, 0.5, 0.4, 0.6]
    table["accuracy"] += table["consensus_score"] / 3
    assert printed("fig05", ({"of $_$ {": table}, "caption of $_$"))[".png"].startswith(b"\x89PNG")
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
    assert missing_letters(["aé$", "網 z🙂"]) == "網🙂"


@pytest.mark.parametrize("change", ["shows", "edited", "removed", "log"])
def test_files_are_written_where_they_are_not_what_was_drawn(tmp_path: Path, change: str) -> None:
    folder, log = tmp_path / "figures", tmp_path / "log.json"
    asked: list[str] = []

    def draw(shows: str) -> None:
        with drawn_in(folder, log) as drawn:
            if not drawn.is_shown("fig", shows):
                asked.append(shows)
                drawn.write("fig", shows, {".png": b"p", ".pdf": b"d"})

    draw("one")
    draw("one")
    assert asked == ["one"]
    match change:
        case "edited":
            (folder / "fig.pdf").write_bytes(b"x")
        case "removed":
            (folder / "fig.pdf").unlink()
        case "log":
            log.write_text("{")
    draw("two" if change == "shows" else "one")
    assert len(asked) == 2
    assert (folder / "fig.pdf").read_bytes() == b"d"


def figures(project: Project) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (project.outputs / "shapes/figures/quartet").iterdir()}


def redrawn(project: Project, *arguments: str) -> set[str]:
    """The figures that a second plot draws again."""
    before = figures(project)
    project.done("plot", *arguments)
    return {name.partition(".")[0] for name, time in figures(project).items() if before.get(name) != time}


def test_a_second_plot_draws_nothing(quartet_copy: Project) -> None:
    assert redrawn(quartet_copy) == set()


def test_a_figure_is_drawn_again_when_its_numbers_or_its_config_change(quartet_copy: Project) -> None:
    assert redrawn(quartet_copy, "plot.gallery=2") == {"fig03_2"}  # the first image stays
    path = quartet_copy.outputs / "shapes/scores/quartet/lime/images.csv"
    table = read_csv(path)
    table["similarity"] += 0.001
    write_csv(path, table)
    assert redrawn(quartet_copy, "plot.gallery=2") == {"fig01"}


def test_figures_of_other_explainers_do_not_stay_beside_those_of_these(quartet_copy: Project) -> None:
    quartet_copy.done("plot")
    folder = quartet_copy.outputs / "shapes/figures/quartet"
    before = {path.name for path in folder.glob("*.png")}
    quartet_copy.done("plot", "explainers=[lime]", "figure=fig04")
    assert {path.name for path in folder.glob("*.png")} == before
    outcome = quartet_copy.done("plot", "explainers=[lime]")
    now, moved = ({path.name for path in each.glob("*.png")} for each in (folder, folder / "earlier"))
    assert now | moved == before
    assert now & moved == set()
    assert all(name.removesuffix(".png") in outcome.err for name in moved)
    assert "fig06.png" in moved  # of SmoothGrad alone


def test_tables_of_other_explainers_do_not_stay_beside_those_of_these(quartet_copy: Project) -> None:
    quartet_copy.done("plot")
    folder = quartet_copy.outputs / "shapes/tables/quartet"
    before = {path.name for path in folder.iterdir()}
    quartet_copy.done("plot", "explainers=[lime]", "figure=table2")
    assert {path.name for path in folder.iterdir()} == before
    outcome = quartet_copy.done("plot", "explainers=[lime]", "plot.figures=[]")
    now, moved = ({path.name for path in each.iterdir()} for each in (folder, folder / "earlier"))
    assert (now | moved) - {"earlier"} == before
    assert {"sigma.csv", "sigma.md", "sigma.tex"} <= moved  # of SmoothGrad alone
    assert "sigma" in outcome.err
    assert "table2.csv" in now


def test_every_argument_of_every_figure_has_a_fingerprint(quartet_copy: Project) -> None:
    quartet_copy.done("plot")
    log = (quartet_copy.outputs / "shapes/status/plot/quartet.json").read_text()
    drawn = {path.stem for path in (quartet_copy.outputs / "shapes/figures/quartet").glob("*.png")}
    assert all(f'"{stem}"' in log for stem in drawn)
    assert {stem.partition("_")[0] for stem in drawn} <= set(FIGURES)
