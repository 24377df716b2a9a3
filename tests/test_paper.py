"""docs/paper.md names no function, config key or figure that does not exist."""

import importlib
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from xconsensus.figures.index import FIGURES, TABLES

PAGE = (Path(__file__).parents[1] / "docs/paper.md").read_text()
TABLE, REST = PAGE.split("## One image")
WALK, OPEN = REST.split("## What the paper leaves open")
README = (Path(__file__).parents[1] / "README.md").read_text()


def rows(table: str) -> list[list[str]]:
    """The cells of each line of a page's tables, the first header left out."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")][
        1:
    ]


ROWS, CHOICES = rows(TABLE), [row for row in rows(OPEN) if row[2].startswith("`")]
NAMES = sorted({name for text in [*(row[1] for row in ROWS), WALK] for name in re.findall(r"`([a-z_.]+\.\w+)`", text)})


def test_every_row_leads_from_the_paper_to_a_function() -> None:
    assert len(ROWS) > 20
    assert all(re.fullmatch(r"`[\w.]+`", row[1]) for row in ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_a_function_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(importlib.import_module(f"xconsensus.{module}"), attribute))


def test_the_keys_exist() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        config = compose("run")
    missing = object()
    for key in {key for row in [*ROWS, *CHOICES] for key in re.findall(r"`([\w.]+)[=`]", row[2])}:
        assert OmegaConf.select(config, key, default=missing) is not missing, key


def test_the_figures_and_tables_exist_and_all_are_named() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[3])}
    assert named == {*FIGURES, *TABLES}


def test_every_open_choice_has_a_key_and_says_what_changes() -> None:
    keys = {key for row in CHOICES for key in re.findall(r"`([\w.]+)[=`]", row[2])}
    assert keys >= {
        "explainer.similarity",
        "score.ap_weights",
        "plot.ensemble",
        "dataset.explain_split",
        "explainer.target",
        "explain.precision",
        "plot.clip_percent",
        "plot.negative",
    }
    assert all(row[3] for row in CHOICES)
    assert "docs/paper.md#what-the-paper-leaves-open" in README
    assert re.search(r"Network Dissection and the user study, are quoted from the paper", README)
