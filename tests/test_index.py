"""One table of figures: plot's lists, the Makefile's targets and README's table say what figures/index.py says."""

import re
from pathlib import Path

import pytest

from xconsensus.figures.index import FIGURES, TABLES
from xconsensus.keys.schema import defaults
from xconsensus.stages.plot import full_name

ROOT = Path(__file__).parents[1]
ENTRIES = {**FIGURES, **TABLES}
EXPERIMENTS = ("imagenet", "cub", "cars", "flowers", "foods")


def name_of(word: str) -> str:
    """fig05 for 5, 5a, fig5; sec452 for 4.5.2, sec51 for 5.1; table1 for table 1."""
    word = word.strip().replace(" ", "")
    if re.fullmatch(r"\d(\.\d)+", word):
        return f"sec{word.replace('.', '')}"
    if match := re.fullmatch(r"(?:fig)?(\d+)[ab]?", word):
        return f"fig{int(match[1]):02}"
    return word


def of(experiment: str) -> set[str]:
    """What the paper's experiment shows, by the index."""
    return {name for name, entry in ENTRIES.items() if experiment in entry.experiments}


def test_names_are_the_entries_own() -> None:
    assert {name: entry.name for name, entry in ENTRIES.items()} == {name: name for name in ENTRIES}


def test_plot_makes_all_of_them_by_default() -> None:
    plot = defaults()["plot"]
    assert (plot["figures"], plot["tables"]) == (list(FIGURES), list(TABLES))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_makefile_runs_an_experiment_for_what_it_shows(experiment: str) -> None:
    (words,) = re.findall(rf"^PAPER_{experiment} := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {name_of(word) for word in words.split()} - {"paper"} == of(experiment)


def test_the_makefile_has_a_target_for_every_figure_of_the_paper() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = {name_of(word) for line in re.findall(r"^(fig[^:=]*):", text, re.MULTILINE) for word in line.split()}
    assert targets == {name for name, entry in ENTRIES.items() if entry.experiments}


def test_the_readme_s_table_says_which_experiment_shows_what() -> None:
    rows = re.findall(r"^\| ([\d][\w ,.]*) \| [^|]* \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    shown = {data.strip(): {name_of(word) for word in names.split(",")} for names, data in rows}
    published = {name for name, entry in ENTRIES.items() if entry.published and entry.experiments}
    assert shown == {
        "none": published,
        "`imagenet/`": of("imagenet"),
        "`CUB_200_2011/`": of("cub"),
        "`coco/`": of("coco"),
        "`cars196/` `flowers102/` `food101/`": of("cars"),
    }


def test_plot_knows_figures_by_the_makefile_s_names() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = [word for line in re.findall(r"^(fig[^:=]*):", text, re.MULTILINE) for word in line.split()]
    assert {full_name(target) for target in targets} == {n for n, e in ENTRIES.items() if e.experiments}
    assert [full_name(name) for name in ("fig5", "fig05", "Fig. 5", 5, "table2", "fig11", None)] == [
        *["fig05"] * 4,
        "table2",
        "fig11",
        "",
    ]


def test_a_need_says_why() -> None:
    needs = {need for entry in ENTRIES.values() for need in (*entry.needs, *entry.by_default)}
    assert all(need.reason and not need.reason.endswith(".") for need in needs)
