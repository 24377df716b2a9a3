"""plot source=published: what the paper's own numbers allow, with no run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import done, xconsensus

from xconsensus import published
from xconsensus.figures import results, scatter
from xconsensus.figures.index import FIGURES


def test_the_published_figures_and_tables_need_no_run(tmp_path: Path) -> None:
    outcome = done("plot", "source=published", f"output_dir={tmp_path}")
    names = {path.relative_to(tmp_path / "published").as_posix() for path in tmp_path.rglob("*.png")}
    both = {f"figures/{committee}/{name}.png" for committee in ("imagenet81", "cub85") for name in ("fig05", "fig06")}
    assert names == both | {"figures/cub85/fig04.png", "figures/cub85/fig10.png"}
    assert {path.with_suffix(".pdf") for path in tmp_path.rglob("*.png")} == {*tmp_path.rglob("*.pdf")}
    assert "3 of 81 rows of imagenet81 have a doubtful accuracy, left out" in outcome.out
    assert "(ResNet18 0.715, ResNet18_vd 0.715, ResNet200_vd 0.730, which look shifted)" in outcome.out
    assert "r is 0.813 instead of 0.817 by LIME and 0.792 instead of 0.796 by SmoothGrad" in outcome.out
    assert "24 of 85 rows of cub85 miss a number" in outcome.out


def test_the_correlations_are_numpy_s_on_the_legible_rows(tmp_path: Path) -> None:
    done("plot", "source=published", "figure=correlations", f"output_dir={tmp_path}")
    for committee, dataset in (("imagenet81", "imagenet"), ("cub85", "cub200")):
        found = pd.read_csv(tmp_path / f"published/tables/{committee}/correlations.csv").set_index(["x", "y"])
        paper = published.table2(dataset)
        rows = paper[paper["model"] != "consensus"].dropna()
        expected = np.corrcoef(rows["consensus_score_lime"], rows["accuracy"])[0, 1]
        assert found.loc[("consensus_score_lime", "accuracy"), "pearson_r"] == pytest.approx(expected, abs=1e-12)
        assert found.loc[("consensus_score_lime", "accuracy"), "n"] == len(rows)


def caption_of(name: str, found: results.Results) -> str:
    (arguments,) = FIGURES[name].arguments(found).values()
    assert isinstance(arguments[1], str)
    return arguments[1]


def test_captions_say_which_recomputed_r_lie_outside_the_published_intervals() -> None:
    birds = results.of_paper("cub85", "cub200", 0.95)
    # Fisher: tanh(atanh(0.885) -+ 1.96 / sqrt(85 - 3)), and the same of 0.906
    assert caption_of("fig10", birds) == (
        "Numbers of the paper, Table 2; 24 of 85 rows of cub85 miss a number; recomputed r 0.9601 of consensus score"
        " LIME and mAP LIME lies outside the published 0.885's 95 % interval [0.8281, 0.9239]; recomputed r 0.9381 of"
        " consensus score SmoothGrad and mAP SmoothGrad lies outside the published 0.906's 95 % interval"
        " [0.8587, 0.9380]"
    )
    plain = "Numbers of the paper, Table 2; 24 of 85 rows of cub85 miss a number"
    for name in ("fig05", "fig06"):
        assert caption_of(name, birds) == plain
    assert caption_of("fig04", birds) == f"{plain}; star: the committee by averaging and voting"
    photographs = results.of_paper("imagenet81", "imagenet", 0.95)
    for name in ("fig05", "fig06"):
        assert "outside" not in caption_of(name, photographs)
        assert "3 of 81 rows of imagenet81 have a doubtful accuracy, left out" in caption_of(name, photographs)
    assert "r is 0.813 instead of 0.817 by LIME" in caption_of("fig05", photographs)


def test_each_caption_speaks_of_its_own_figure_and_of_its_level() -> None:
    narrow = results.of_paper("cub85", "cub200", 0.1)
    for name, count in (("fig04", 2), ("fig05", 2), ("fig06", 1), ("fig10", 2)):
        assert caption_of(name, narrow).count("10 % interval") == count
    assert "of consensus score LIME and consensus score SmoothGrad" in caption_of("fig06", narrow)


def test_a_caption_s_remark_stands_under_the_figure(tmp_path: Path) -> None:
    birds = results.of_paper("cub85", "cub200", 0.95)
    (arguments,) = FIGURES["fig10"].arguments(birds).values()
    drawn = scatter.fig10(*arguments)
    drawn.savefig(tmp_path / "fig10.png", dpi=50)
    (caption,) = [text for text in drawn.texts if text.get_text().startswith("Numbers of the paper")]
    assert "lies outside the published 0.885's" in " ".join(caption.get_text().split())
    assert drawn.bbox.y0 <= caption.get_window_extent().y0


def test_a_run_of_one_s_own_has_no_such_remark() -> None:
    own = results.Results("birds", "cub85", results.of_paper("cub85", "cub200", 0.95).scores, ["a"] * 85)
    assert "published" not in caption_of("fig10", own)


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
