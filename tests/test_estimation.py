"""Accuracies that are estimated from few labels or none, against closed forms and counting."""

from itertools import combinations
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from conftest import Project
from numpy.typing import NDArray
from scipy import stats

from xconsensus.scores import estimation as made
from xconsensus.store.files import read_csv

FAMILIES = ["f", "f", "f", "g", "g", "h", "i", "i"]
OPTIONS = {"labelled": [5, 20], "draws": 50, "seed": 0}


def members(score: NDArray[np.float64], accuracy: NDArray[np.float64]) -> pd.DataFrame:
    names = [f"m{place}" for place in range(len(score))]
    return pd.DataFrame({"member": names, "family": FAMILIES, "accuracy": accuracy, "consensus_score": score})


def predictions(accuracy: NDArray[np.float64], images: int = 200) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Classes (m, n) of members that err at random, and the labels: of accuracies up to a rounding to whole images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, images)
    wrong = [rng.permutation(images) >= round(share * images) for share in accuracy]
    return np.stack([(labels + each * rng.integers(1, 5, images)) % 5 for each in wrong]), labels


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_scores_on_a_line_with_accuracy_give_every_left_out_member_exactly(slope: float) -> None:
    score = np.array([0.1, 0.15, 0.2, 0.3, 0.35, 0.5, 0.6, 0.7])
    accuracy = 0.5 + slope * (score - 0.2)
    predicted, labels = predictions(accuracy)
    table = made.estimation(members(score, accuracy), predicted, predicted, labels, OPTIONS)
    found = table[table["estimator"] == made.SCORE].set_index("left_out")
    assert list(found.index) == ["member", "family"]
    assert list(found["n"]) == [8, 8]
    np.testing.assert_allclose(found["mean_absolute_error"], 0, atol=1e-12)
    np.testing.assert_allclose(found["kendall_tau"], 1)
    np.testing.assert_allclose(found["kendall_tau_unfitted"], np.sign(slope))


def test_a_left_out_member_does_not_shape_its_own_line() -> None:
    rng = np.random.default_rng(1)
    score, accuracy = rng.random(8), 0.3 + 0.4 * rng.random(8)
    alone = made.left_out(score, accuracy, [*"abcdefgh"])
    by_family = made.left_out(score, accuracy, FAMILIES)
    for place, family in enumerate(FAMILIES):
        for found, others in (
            (alone, np.arange(8) != place),
            (by_family, np.array([each != family for each in FAMILIES])),
        ):
            line = np.polyfit(score[others], accuracy[others], 1)
            assert found[place] == pytest.approx(np.clip(np.polyval(line, score[place]), 0, 1), abs=1e-12)
    mean = made.left_out(None, accuracy, [*"abcdefgh"])
    np.testing.assert_allclose(mean, (accuracy.sum() - accuracy) / 7)


def test_leaving_one_out_errs_as_the_closed_form_says() -> None:
    """The error of leave-one-out least squares is the residual of the whole fit over 1 - leverage."""
    rng = np.random.default_rng(2)
    score, accuracy = rng.random(8), 0.4 + 0.2 * rng.random(8)
    design = np.stack([np.ones(8), score], axis=1)
    hat = design @ np.linalg.pinv(design)
    expected = np.abs((accuracy - hat @ accuracy) / (1 - np.diag(hat))).mean()
    assert made.error(made.left_out(score, accuracy, [*"abcdefgh"]), accuracy) == pytest.approx(expected, abs=1e-12)


def test_too_few_others_or_one_measure_predict_nothing() -> None:
    accuracy = np.array([0.1, 0.2, 0.3, 0.4])
    assert np.isnan(made.left_out(accuracy, accuracy, [*"aabb"])).all()
    assert np.isnan(made.left_out(np.ones(4), accuracy, [*"abcd"])).all()
    missing = made.left_out(np.array([0.1, 0.2, 0.3, np.nan]), accuracy, [*"abcd"])
    assert np.isnan(missing[:3]).all()  # two others are left
    assert np.isnan(missing[3])
    assert np.isnan(made.error(missing, accuracy))
    assert np.isnan(made.tau(missing, accuracy))


def test_tau_counts_pairs() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 6, (2, 12)).astype(float)
    signs = [np.sign((first[i] - first[j]) * (second[i] - second[j])) for i, j in combinations(range(12), 2)]
    untied = [sum(each[i] != each[j] for i, j in combinations(range(12), 2)) for each in (first, second)]
    assert made.tau(first, second) == pytest.approx(sum(signs) / sqrt(untied[0] * untied[1]), abs=1e-12)
    assert made.tau(first, second) == pytest.approx(stats.kendalltau(first, second).statistic)
    assert made.tau(np.ones(12), second) == 0


def test_tau_of_many_draws_is_that_of_each_over_what_both_have() -> None:
    generator = np.random.default_rng(6)
    draws, accuracy = generator.integers(0, 6, (30, 9)) / 6, generator.integers(0, 5, 9) / 5
    draws[3, 2], draws[7, [0, 4]], accuracy[5] = np.nan, np.nan, np.nan
    for each, found in zip(draws, made.tau(draws, accuracy), strict=True):
        both = np.isfinite(each) & np.isfinite(accuracy)
        assert found == pytest.approx(stats.kendalltau(each[both], accuracy[both]).statistic)


def test_labelled_images_err_as_the_hypergeometric_distribution_does() -> None:
    accuracy = np.array([0.9, 0.8, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
    predicted, labels = predictions(accuracy)
    right = predicted == labels
    for count in (5, 30):
        drawn = made.by_labels(right, count, 4000, seed=0)
        hits = np.arange(count + 1)
        chances = np.array([stats.hypergeom.pmf(hits, 200, each, count) for each in right.sum(1)])
        expected = (chances * np.abs(hits / count - accuracy[:, None])).sum(1).mean()
        assert made.error(drawn, accuracy) == pytest.approx(expected, rel=0.03)
    everything = made.by_labels(right, 200, 2, seed=0)
    np.testing.assert_allclose(everything, [accuracy, accuracy])


def test_more_labels_err_less_and_unknown_ones_do_not_count() -> None:
    accuracy = np.linspace(0.4, 0.9, 8)
    predicted, labels = predictions(accuracy)
    labels[100:] = -1
    accuracy = (predicted[:, :100] == labels[:100]).mean(1)
    table = members(accuracy, accuracy)
    options = {**OPTIONS, "labelled": [10, 50, 100, 101]}
    found = made.estimation(table, predicted, predicted, labels, options).set_index("estimator")
    errors = found["mean_absolute_error"][[f"{count} labelled images" for count in (10, 50, 100)]]
    assert errors.is_monotonic_decreasing
    assert errors.iloc[-1] == pytest.approx(0, abs=1e-12)
    assert "101 labelled images" not in found.index
    assert made.estimation(table, predicted, predicted, np.full(200, -1), options).empty


def test_agreement_is_the_mean_share_of_equal_classes_with_the_others() -> None:
    voters = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [1, 0, 1, 1]])
    np.testing.assert_allclose(made.agreement_with_others(voters, voters), [0.75, 0.625, 0.625])
    np.testing.assert_allclose(made.agreement_with_others(voters[1:2], voters), [0.625])
    assert np.isnan(made.agreement_with_others(voters[:1], voters[:1])).all()


def test_score_writes_them_and_plot_shows_each_explainer_s(quartet: Project) -> None:
    root = quartet.outputs / "shapes"
    table = read_csv(root / "tables/quartet/estimation.csv")
    assert list(table["estimator"].unique()) == [
        made.MEAN,
        made.AGREEMENT,
        "10 labelled images",
        "30 labelled images",
        "consensus score, LIME",
        "consensus score, SmoothGrad",
    ]
    assert "kendall_tau" in table
    own = read_csv(root / "scores/quartet/smoothgrad/members.csv").iloc[:-1]
    found = made.left_out(own["consensus_score"].to_numpy(), own["accuracy"].to_numpy(), list(own["member"]))
    shown = table.query("estimator == 'consensus score, SmoothGrad' and left_out == 'member'")
    expected = np.nanmean(np.abs(found - own["accuracy"]))
    assert shown["mean_absolute_error"].item() == pytest.approx(expected, abs=1e-9)


def test_scores_without_them_are_computed_once_more_and_others_stay(quartet_copy: Project) -> None:
    folder = quartet_copy.outputs / "shapes/scores/quartet/lime"
    for suffix in (".csv", ".json"):
        (folder / f"estimation{suffix}").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    refused = quartet_copy.run("plot", "figure=estimation")
    assert (refused.code, "run score" in refused.errors[0]) == (2, True)
    outcome = quartet_copy.done("score")
    assert "score.labelled: without [100], of 36 labelled test images" in outcome.err
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {
        "estimation.csv",
        "estimation.json",
        "inputs.json",
    }


def test_draws_that_cannot_be_are_refused(quartet: Project) -> None:
    for key, words in (
        ("score.labelled=[1.5]", "score.labelled=1.5 is not a whole number"),
        ("score.labelled=[0]", "score.labelled=0 is less than 1"),
        ("score.labelled=10", "write score.labelled=[10]"),
        ("score.shares=[0.5,1]", "score.shares=1 is not below 1"),
        ("score.draws=0", "score.draws=0 is less than 1"),
    ):
        refused = quartet.run("score", key, "dry_run=true")
        assert refused.code == 2
        assert words in refused.errors[0]
