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
TABLE, WALK = PAGE.split("## One image")
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.splitlines() if line.startswith("| ")][1:]
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
    for key in {key for row in ROWS for key in re.findall(r"`([\w.]+)`", row[2])}:
        assert OmegaConf.select(config, key, default=missing) is not missing, key


def test_the_figures_and_tables_exist_and_all_are_named() -> None:
    named = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[3])}
    assert named == {*FIGURES, *TABLES}
