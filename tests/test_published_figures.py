"""plot source=published: what the paper's own numbers allow, with no run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import done, xconsensus

from xconsensus import published


def test_the_published_figures_and_tables_need_no_run(tmp_path: Path) -> None:
    outcome = done("plot", "source=published", f"output_dir={tmp_path}")
    names = {path.relative_to(tmp_path / "published").as_posix() for path in tmp_path.rglob("*.png")}
    both = {f"figures/{committee}/{name}.png" for committee in ("imagenet81", "cub85") for name in ("fig05", "fig06")}
    assert names == both | {"figures/cub85/fig04.png", "figures/cub85/fig10.png"}
    assert {path.with_suffix(".pdf") for path in tmp_path.rglob("*.png")} == {*tmp_path.rglob("*.pdf")}
    assert "3 of 81 rows of imagenet81 miss a number" in outcome.out
    assert "24 of 85 rows of cub85 miss a number" in outcome.out


def test_the_correlations_are_numpy_s_on_the_legible_rows(tmp_path: Path) -> None:
    done("plot", "source=published", f"output_dir={tmp_path}")
    for committee, dataset in (("imagenet81", "imagenet"), ("cub85", "cub200")):
        found = pd.read_csv(tmp_path / f"published/tables/{committee}/correlations.csv").set_index(["x", "y"])
        paper = published.table2(dataset)
        rows = paper[paper["model"] != "consensus"].dropna()
        expected = np.corrcoef(rows["consensus_score_lime"], rows["accuracy"])[0, 1]
        assert found.loc[("consensus_score_lime", "accuracy"), "pearson_r"] == pytest.approx(expected, abs=1e-12)
        assert found.loc[("consensus_score_lime", "accuracy"), "n"] == len(rows)


def test_table_1_has_the_paper_s_rows_alone(tmp_path: Path) -> None:
    done("plot", "source=published", "figure=table1", f"output_dir={tmp_path}")
    (path,) = tmp_path.rglob("table1.csv")
    measures = pd.read_csv(path)["measure"]
    assert len(measures) == 4
    assert all(measure.endswith("(paper)") for measure in measures)
    assert not [*tmp_path.rglob("*.png")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["source=published", "figure=fig7"], "figure=fig7"), (["source=publishd"], "source=publishd")],
)
def test_what_is_not_published_is_said(tmp_path: Path, arguments: list[str], says: str) -> None:
    outcome = xconsensus("plot", *arguments, f"output_dir={tmp_path}")
    assert outcome.code == 2
    assert says in outcome.errors[0]
    assert not [*tmp_path.iterdir()]


def test_a_dry_run_draws_nothing(tmp_path: Path) -> None:
    done("plot", "source=published", "dry_run=true", f"output_dir={tmp_path}")
    assert not [*tmp_path.iterdir()]
