import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xconsensus import published
from xconsensus.errors import InputError
from xconsensus.figures import rendering, tables


def scores(seed: int, members: int = 9, masks: bool = True) -> pd.DataFrame:
    """A table as the score stage writes it: accuracies are the same for every seed."""
    accuracy = np.linspace(0.5, 0.9, members)
    table = pd.DataFrame(
        {
            "member": [f"net_{index}" for index in range(members)],
            "family": [f"family {index % 3}" for index in range(members)],
            "accuracy": accuracy,
            "consensus_score": accuracy / 20 + np.random.default_rng(seed).normal(0, 0.005, members),
        }
    )
    if masks:
        table["mean_average_precision"] = np.random.default_rng(seed + 1).random(members)
    ensemble: dict[str, str | float] = {"member": "consensus", "family": "consensus", "accuracy": 0.95}
    if masks:
        ensemble["mean_average_precision"] = 0.99
    return pd.concat([table, pd.DataFrame([ensemble])], ignore_index=True)


def test_table_2_holds_every_explainers_numbers_with_the_ensemble_last() -> None:
    lime, smoothgrad = scores(0), scores(2).sample(frac=1, random_state=0)
    table = tables.table2({"lime": lime, "smoothgrad": smoothgrad})
    assert list(table["member"]) == list(lime["member"])
    for explainer, own in (("lime", lime), ("smoothgrad", smoothgrad)):
        own = own.set_index("member").loc[table["member"]]
        for column in ("consensus_score", "mean_average_precision"):
            np.testing.assert_array_equal(table[f"{column}_{explainer}"], own[column])


def test_table_2_keeps_members_that_only_one_explainer_has() -> None:
    lime, smoothgrad = scores(0), scores(1)
    table = tables.table2({"lime": lime.drop(index=2), "smoothgrad": smoothgrad.drop(index=5)})
    assert set(table["member"]) == set(lime["member"])
    assert table["member"].iloc[-1] == "consensus"
    row = table.set_index("member").loc["net_2"]
    assert np.isnan(row["consensus_score_lime"])
    assert row["consensus_score_smoothgrad"] == smoothgrad.iloc[2, 3]


def test_columns_of_average_precision_are_there_with_masks_only() -> None:
    lime = scores(0, masks=False)
    table = tables.table2({"lime": lime, "smoothgrad": scores(1)})
    assert [name for name in table.columns.astype(str) if "precision" in name] == ["mean_average_precision_smoothgrad"]


def test_table_2_refuses_nothing_and_contradictions() -> None:
    with pytest.raises(InputError, match="no explainer"):
        tables.table2({})
    other = scores(1)
    other["accuracy"] += 0.01 * (other["member"] == "net_4")
    with pytest.raises(InputError, match="net_4 differs"):
        tables.table2({"lime": scores(0), "smoothgrad": other})


def test_correlations_are_those_of_the_columns_without_the_ensemble() -> None:
    lime, smoothgrad = scores(0), scores(1)
    table = tables.correlations({"lime": lime, "smoothgrad": smoothgrad}).set_index(["x", "y"])
    assert len(table) == 7
    row: Any = table.loc[("consensus_score_lime", "mean_average_precision_lime")]
    pearson = stats.pearsonr(lime["consensus_score"][:-1], lime["mean_average_precision"][:-1])
    assert (row["n"], row["pearson_r"], row["pearson_p"]) == pytest.approx((9, pearson.statistic, pearson.pvalue))
    row = table.loc[("consensus_score_lime", "consensus_score_smoothgrad")]
    rank = stats.spearmanr(lime["consensus_score"][:-1], smoothgrad["consensus_score"][:-1])
    assert (row["spearman_r"], row["spearman_p"]) == pytest.approx((rank.statistic, rank.pvalue))


def test_the_papers_correlations_stand_beside_those_of_its_tables() -> None:
    table = tables.correlations(published.members("imagenet"), "imagenet")
    assert table["published_r"].notna().all()
    assert (table["pearson_r"] - table["published_r"]).abs().max() < 0.015
    assert "published_r" not in tables.correlations({"lime": scores(0)}, "shapes")


def test_table_1_ranks_the_papers_own_numbers_as_the_paper_does() -> None:
    table: Any = tables.table1(published.members("imagenet")).set_index("measure")
    for explainer in ("LIME", "SmoothGrad"):
        paper, here = table.loc[f"Consensus {explainer} (paper)"], table.loc[f"Consensus {explainer} (here)"]
        assert [cell.split()[0] for cell in here] == [cell.split()[0] for cell in paper] == list("12345")
    assert table.loc["User study (paper)", "AlexNet"] == "5 (0.840)"


def test_table_1_leaves_absent_models_empty_and_ranks_the_rest() -> None:
    own = scores(0, members=3)
    own["member"] = ["alexnet", "vgg-16", "net", "consensus"]
    own["consensus_score"] = [0.7, 0.6, 0.9, np.nan]
    row = tables.table1({"captum": own}).set_index("measure").loc["Consensus captum (here)"]
    assert row.to_dict() == {
        "DenseNet161": "", "ResNet152": "", "VGG16": "2 (0.600)", "GoogLeNet": "", "AlexNet": "1 (0.700)"
    }  # fmt: skip


NASTY = pd.DataFrame(
    {
        "member": ["a_b|c", "50% & $x^2~{y}#\\"],
        "n": [30, 12],
        "consensus_score_lime": [0.12345, np.nan],
        "pearson_p": [4.27e-37, -0.03456],
    }
)


def test_text_is_aligned_and_legible() -> None:
    head, *rows = rendering.to_text(NASTY).splitlines()
    assert [cell.strip() for cell in head.split("  ") if cell] == ["member", "n", "consensus score LIME", "Pearson p"]
    assert len({len(line) for line in (head, *rows)}) == 1
    assert rows[0].split() == ["a_b|c", "30", "0.123", "4.27e-37"]
    assert rows[1].split()[-3:] == ["12", "-", "-0.0346"]


def test_markdown_has_one_cell_a_column_in_aligned_source() -> None:
    lines = rendering.to_markdown(NASTY).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [line.replace("\\|", "").strip("|").split("|") for line in lines]
    assert {len(row) for row in cells} == {4}
    assert [cell.strip().endswith(":") for cell in cells[1]] == [False, True, True, True]


def test_latex_escapes_and_has_as_many_cells_as_columns() -> None:
    text = rendering.to_latex(NASTY)
    first, head = text.splitlines()[:2]
    assert first == r"% \usepackage{array,booktabs,longtable}"
    assert head == r"\noindent\begin{tabular}{lrrr}"
    assert text.rstrip().endswith(r"\end{tabular}")
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert [row.replace(r"\&", "").count("&") for row in rows] == [3, 3, 3]
    assert r"50\% \& \$x\textasciicircum 2\textasciitilde \{y\}\#\textbackslash " in rows[2]
    assert r"a\_b\textbar c" in rows[1]
    assert "4.27e-37" in rows[1]
    assert "-0.0346" in rows[2]


def test_latex_has_an_interval_in_its_coefficient_s_cell_and_none_of_few_members() -> None:
    table = tables.correlations({"smoothgrad": scores(0, masks=False)})
    text = rendering.to_latex(table).replace(r"\allowbreak{}", "").replace(r"\hspace{0pt}", "")
    (row,) = table.to_dict("records")
    for name in ("pearson", "spearman"):
        assert f"{row[f'{name}_r']:.3f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]" in text
    few = tables.correlations({"smoothgrad": scores(0, members=4, masks=False)})
    assert "[" not in rendering.to_latex(few).split(r"\midrule")[1].split(r"\bottomrule")[0]


def wide_and_long() -> dict[str, pd.DataFrame]:
    """Tables of many rows, many columns, long names, long words, long texts."""
    paper = published.members("cub200")
    many = {f"an_own_explainer_{index}": table for index, table in enumerate([*paper.values()] * 3)}
    return {
        "table 1": tables.table1(paper),
        "table 2 of 85": tables.table2(paper),
        "table 2 of six explainers": tables.table2(many),
        "correlations": tables.correlations(paper, "cub200"),
        "correlations of six": tables.correlations(many),
        "long": pd.DataFrame({"member": ["a" * 70, "W_" * 30], "n": [30, 12], "note": ["word " * 60, "x"]}),
        "nasty": NASTY,
    }


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_fits_the_page_of_an_article(tmp_path: Path) -> None:
    bodies = [rendering.to_latex(table) for table in wide_and_long().values()]
    packages = r"\documentclass{article}\usepackage{array,booktabs,longtable}\begin{document}\footnotesize"
    text = "\n\n".join([packages, *(f"\\clearpage\n{body}" for body in bodies), r"\end{document}"])
    (tmp_path / "all.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "all"], cwd=tmp_path, capture_output=True)
    if "not found" in (log := (tmp_path / "all.log").read_text(errors="replace")):
        pytest.skip("pdflatex lacks a package")
    assert done.returncode == 0
    assert [line for line in log.splitlines() if line.startswith(("!", "Overfull"))] == []


def test_latex_loses_no_cell_of_wide_and_long_tables() -> None:
    for table in wide_and_long().values():
        text = rendering.to_latex(table).replace(r"\allowbreak{}", "").replace(r"\hspace{0pt}", "")
        for name in table.get("member", ()):
            plain = rendering.to_latex(pd.DataFrame({"member": [name]})).splitlines()[-3].removesuffix(r" \\")
            assert plain.replace(r"\allowbreak{}", "").replace(r"\hspace{0pt}", "") in text
        for column in table:
            assert rendering.heading(str(column)).split()[-1] in text or str(column).endswith(("_low", "_high"))
        if len(table) > 60:
            assert text.count(r"\begin{longtable}") == text.count(r"\endhead") >= 1


def test_own_explainers_have_their_titles_in_headings_and_rows() -> None:
    table = pd.DataFrame(
        {"x": ["consensus_score_grad_cam"], "consensus_score_cam": [0.5], "mean_average_precision_x": [1]}
    )
    titles = {"cam": "CAM", "grad_cam": "Grad-CAM"}
    for render in (rendering.to_text, rendering.to_markdown, rendering.to_latex):
        text = render(table, titles).replace(r"\allowbreak{}", "")
        for words in ("consensus score Grad-CAM", "consensus score CAM", "mAP x"):
            assert words in text


def test_correlations_of_few_members_are_numbers_in_the_table_and_words_in_its_text() -> None:
    few = tables.correlations({"smoothgrad": scores(0, members=4, masks=False)})
    assert few["pearson_p"][0] * 24 == pytest.approx(round(few["pearson_p"][0] * 24))
    head, row = rendering.to_markdown(few).splitlines()[::2]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row)), strict=True))
    for coefficient in ("Pearson", "Spearman"):
        assert cells[f"{coefficient} p"] == "n too small"
        assert cells[f"{coefficient} low"] == cells[f"{coefficient} high"] == "-"
        assert float(cells[f"{coefficient} r"]) == pytest.approx(few[f"{coefficient.lower()}_r"][0], abs=0.001)
    enough = rendering.to_text(tables.correlations({"smoothgrad": scores(1, members=5, masks=False)}))
    assert "too small" not in enough
    assert "-" not in enough.split()


def test_names_of_columns_read_as_words_in_cells_too() -> None:
    text = rendering.to_text(tables.correlations({"smoothgrad": scores(0)}))
    assert "mAP SmoothGrad" in text
    assert "_" not in text


def test_sigma_halved_and_doubled_equals_the_similarity_computed_anew() -> None:
    rng = np.random.default_rng(0)
    distances = rng.uniform(3, 9, (6, 5))
    names = [f"m{i}" for i in range(5)]

    def table(sigma: float) -> pd.DataFrame:
        rows = [
            (i, name, np.exp(-((d / sigma) ** 2) / 2))
            for i, row in enumerate(distances)
            for name, d in zip(names, row, strict=True)
        ]
        rows += [(i, "consensus", np.nan) for i in range(6)]
        return pd.DataFrame(rows, columns=["image_id", "member", "similarity"])

    members = pd.DataFrame({"member": [*names, "consensus"], "accuracy": [*rng.random(5), 0.9]})
    found = tables.sigma(table(4.0), members, 4.0).set_index("sigma")
    assert list(found.index) == [2.0, 4.0, 8.0]
    for sigma in (2.0, 4.0, 8.0):
        scores = table(sigma).groupby("member")["similarity"].mean()[names]
        assert found["median_score"][sigma] == pytest.approx(scores.median())
        assert found["pearson_r"][sigma] == pytest.approx(np.corrcoef(scores, members["accuracy"][:5])[0, 1])
    assert found["rank_agreement"][4.0] == pytest.approx(1)
