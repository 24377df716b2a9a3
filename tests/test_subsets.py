"""Correlations over subsets of the members: the weakest left out, and committees drawn at random."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from xconsensus import published
from xconsensus.published import ENSEMBLE
from xconsensus.scores.subsets import SIZES, random_committees, subsets


def pairs(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and accuracies of n members that go together somewhat; accuracies tie."""
    generator = np.random.default_rng(n)
    accuracies = generator.integers(50, 50 + n, n) / 100
    return accuracies + generator.normal(0, 0.1, n), accuracies


def test_the_weakest_are_those_below_a_quantile_of_accuracy() -> None:
    x, y = pairs(40)
    found = subsets(x, y).set_index("members")
    for share in (0.1, 0.25, 0.5):
        kept = y >= np.percentile(y, 100 * share)
        row = found.loc[f"without the weakest {100 * share:g} %"]
        assert row["n"] == kept.sum()
        assert row["pearson_r"] == pytest.approx(stats.pearsonr(x[kept], y[kept]).statistic)
        assert row["spearman_r"] == pytest.approx(stats.spearmanr(x[kept], y[kept]).statistic)
    assert found.loc["all", "pearson_r"] == pytest.approx(stats.pearsonr(x, y).statistic)


def test_random_committees_are_all_committees_equally_often() -> None:
    x, y = pairs(7)
    every = [list(chosen) for chosen in combinations(range(7), 5)]
    exact = {
        "pearson": np.array([stats.pearsonr(x[i], y[i]).statistic for i in every]),
        "spearman": np.array([stats.spearmanr(x[i], y[i]).statistic for i in every]),
    }
    drawn = dict(zip(exact, random_committees(x, y, 5, 21_000, seed=3), strict=True))
    for name, values in exact.items():
        places = np.abs(drawn[name][:, None] - values).argmin(1)
        assert drawn[name] == pytest.approx(values[places])  # none that is no committee's
        counts = np.bincount(places, minlength=len(every))
        distinct = np.unique(values.round(9))
        expected = 1000 * np.array([(np.abs(values - each) < 1e-9).sum() for each in distinct])
        seen = np.array([counts[np.abs(values - each) < 1e-9].sum() for each in distinct])
        assert np.abs(seen - expected).max() < 5 * np.sqrt(expected.max())  # five standard errors


def test_the_paper_s_r_falls_with_the_weakest_members() -> None:
    tables = published.members("imagenet")
    falls = {"lime": (0.817, 0.43, 0.14, -0.10), "smoothgrad": (0.796, 0.53, 0.13, -0.31)}
    for name, expected in falls.items():
        own = tables[name][tables[name]["member"] != ENSEMBLE]
        found = subsets(own["consensus_score"], own["accuracy"])
        assert found["pearson_r"][:4].tolist() == pytest.approx(expected, abs=0.006)
    fifteen = found[found["members"] == "15 at random"].iloc[0]
    assert fifteen["n"] == 15
    assert fifteen["pearson_low"] < 0.796 < fifteen["pearson_high"]


def test_members_without_a_number_are_left_out_and_sizes_end_below_their_count() -> None:
    x, y = pairs(14)
    x[0], y[1] = np.nan, np.nan
    found = subsets(x, y)
    assert found["n"][0] == 12
    assert found["n"][4:].tolist() == [size for size in SIZES if size < 12]
    assert len(subsets([np.nan] * 3, [0.1, 0.2, 0.3])) == 0


def test_draws_of_equal_scores_have_no_r() -> None:
    pearson, spearman = random_committees(np.ones(8), np.arange(8.0), 5, 10, seed=0)
    assert np.isnan([pearson, spearman]).all()
