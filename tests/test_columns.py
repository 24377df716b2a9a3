"""docs/columns.md names every column of every table, and its Python runs."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project

from xconsensus.figures.index import TABLES
from xconsensus.scores.committees import agreement, family_scores
from xconsensus.scores.metrics import Intervals
from xconsensus.stages.score import MAKERS
from xconsensus.tensors import read_tensors

PAGE = (Path(__file__).parents[1] / "docs/columns.md").read_text()
SECTIONS = {
    part.partition("\n")[0]: part.partition("\n")[2] for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
}


def documented(section: str) -> list[str]:
    """The columns that a section names, in order; as patterns, of which `<explainer>` stands for any word."""
    return [re.sub("<[a-z]+>", r"\\w+", name) for name in re.findall(r"`([\w<>]+)`", SECTIONS[section])]


def section_of(path: Path) -> str:
    """The section about a table below the data set's folder."""
    return {"images": "images/COMMITTEE.csv"}.get(path.parts[0], f"{path.parts[0]}/{path.name}")


def test_every_table_that_is_made_has_a_section() -> None:
    wanted = {f"scores/{name}.csv" for name in MAKERS} | {f"tables/{name}.csv" for name in TABLES}
    assert wanted <= {*SECTIONS}


def test_every_column_of_a_run_is_named(quartet: Project) -> None:
    root = quartet.outputs / "shapes"
    tables = [path.relative_to(root) for path in sorted(root.rglob("*.csv"))]
    assert len(tables) > 15
    for table in tables:
        if not table.stem.startswith(("fig", "sec")):
            names = documented(section_of(table))
            for column in pd.read_csv(root / table).columns:
                assert any(re.fullmatch(name, column) for name in names), f"{table}: {column}"


@pytest.mark.parametrize("name", ["members", "images", "correlations", "growing", "estimation", "measures", "several"])
def test_no_column_is_named_that_a_run_does_not_have(quartet: Project, name: str) -> None:
    found = pd.read_csv(quartet.outputs / f"shapes/scores/quartet/lime/{name}.csv").columns
    rows = re.findall(r"^\| (`.*?) \|", SECTIONS[f"scores/{name}.csv"], re.MULTILINE)
    named = [column for row in rows for column in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(found)


def test_tables_of_other_committees_are_named() -> None:
    scores = np.random.default_rng(0).random((3, 5))
    random = agreement(scores, scores[0], [np.arange(4)] * 3)
    family = family_scores([*"abcde"], {"own": scores}, Intervals(10, 0.95, 0))
    for name, table in (("random", random), ("family", family)):
        assert {*table.columns} <= {*documented(f"scores/{name}.csv")}


def test_the_python_of_the_page_runs(quartet: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 10
    ran: dict[str, object] = {}
    exec(code.replace("outputs/shapes", str(quartet.outputs / "shapes")).replace("tiny", "quartet"), ran)
    images = pd.read_csv(quartet.outputs / "shapes/scores/quartet/lime/images.csv")
    image_id, probability, *shape = capsys.readouterr().out.split(maxsplit=2)
    assert image_id == images["image_id"][0]
    assert float(probability) == pytest.approx(images["probability"][0])
    side = images_side(quartet)
    assert shape == [f"torch.Size([{side}, {side}])\n"]


def images_side(project: Project) -> int:
    """The pixels a side of the explained images, by the superpixels of one."""
    file = next((project.outputs / "shapes/superpixels/quickshift").glob("*.safetensors"))
    return math.isqrt(int(read_tensors(file)["offsets"][1]))
