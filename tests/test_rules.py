"""Votes and similarities beside the explainer's own, from the same explanations."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from xconsensus.consensus import SIMILARITIES, VOTES, Similarity, cosine, rbf
from xconsensus.errors import InputError
from xconsensus.scores.rules import Areas, by_rule, rule_by_name, rules_table

NAMES = ("a", "b", "c")


def images() -> Iterator[tuple[Tensor, Areas]]:
    draws = torch.Generator().manual_seed(0)
    for size in (7, 12):
        yield torch.randn(3, size, generator=draws, dtype=torch.float64), (np.arange(size) % 3 == 0, None)


def test_a_signed_vote_is_the_mean_of_unit_vectors_and_a_positive_one_its_ballots_without_what_is_below_zero() -> None:
    given = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    assert VOTES["signed"](given).tolist() == [pytest.approx([0.6, -0.8, 0.0]), [0, 0, 0]]
    assert VOTES["positive"](given).tolist() == [pytest.approx([0.6, 0.0, 0.0]), [0, 0, 0]]
    assert VOTES["signed"](given.half()).dtype == torch.float16


def test_the_squared_cosine_is_scikit_learn_s_of_squares_and_by_means_the_same() -> None:
    (values, _), _ = images()
    agreed = VOTES["normalised_squares"](values)
    found = Similarity("cosine_squared")(values, agreed.mean(0))
    expected = cosine_similarity(values.square(), agreed.mean(0)[None])[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    weights = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    np.testing.assert_allclose(Similarity("cosine_squared").to_means(values, agreed, weights)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_pairs_are_each_explanation_beside_each_other_s(name: str) -> None:
    (values, _), _ = images()
    similarity = Similarity(name, sigma=40.0)
    found = similarity.of_pairs(values)
    for row, column in ((0, 1), (2, 0), (1, 1)):
        other = similarity.compared(values[column])
        np.testing.assert_allclose(found[row, column], similarity(values[row], other), rtol=1e-9)
    torch.testing.assert_close(found, found.T)
    assert found.diagonal().tolist() == pytest.approx([1.0] * 3)


def test_each_rule_has_the_scores_and_the_precision_of_a_vote_by_hand() -> None:
    names = ["normalised_squares+cosine", "normalised_squares+cosine_squared", "positive+cosine", "min_max+rbf+9"]
    table = rules_table(images(), NAMES, [rule_by_name(name) for name in names], np.asarray)
    assert list(table["rule"].unique()) == names
    found = table.set_index(["rule", "member"])
    by_hand: dict[str, Callable[[Tensor], Tensor]] = {
        "normalised_squares+cosine": lambda v: cosine(v, (v**2 / v.norm(dim=1, keepdim=True)).mean(0)),
        "normalised_squares+cosine_squared": lambda v: cosine(v**2, (v**2 / v.norm(dim=1, keepdim=True)).mean(0)),
        "positive+cosine": lambda v: cosine(v, (v.clamp_min(0) / v.norm(dim=1, keepdim=True)).mean(0)),
        "min_max+rbf+9": lambda v: rbf(v, VOTES["min_max"](v).mean(0), 9 * math.sqrt(v.shape[1] / 224**2)),
    }
    for name, score in by_hand.items():
        expected = torch.stack([score(values) for values, _ in images()]).mean(0)
        np.testing.assert_allclose(found["consensus_score"][name].drop("consensus"), expected, rtol=1e-9)
    for name, power in (("positive+cosine", 1), ("normalised_squares+cosine_squared", 2)):
        ap = [[average_precision_score(areas[0], each) for each in values**power] for values, areas in images()]
        precision = found["mean_average_precision"][name].drop("consensus")
        np.testing.assert_allclose(precision, np.mean(ap, axis=0), rtol=1e-9)
    agreed = [(values.clamp_min(0) / values.norm(dim=1, keepdim=True)).mean(0) for values, _ in images()]
    by_image = [average_precision_score(areas[0], c) for c, (_, areas) in zip(agreed, images(), strict=True)]
    assert found["mean_average_precision"]["positive+cosine", "consensus"] == pytest.approx(np.mean(by_image))


def test_without_masks_there_is_no_precision_and_one_value_everywhere_is_left_out() -> None:
    flat = [(torch.tensor([[1.0, 1.0], [1.0, 2.0]]), None), (torch.tensor([[1.0, 3.0], [1.0, 2.0]]), None)]
    table = rules_table(flat, ["a", "b"], [rule_by_name("signed+cosine")], np.asarray).set_index("member")
    assert table["mean_average_precision"].isna().all()
    alone = rules_table(flat[1:], ["a", "b"], [rule_by_name("signed+cosine")], np.asarray).set_index("member")
    assert table["consensus_score"]["a"] == alone["consensus_score"]["a"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("signd+cosine", "'signd' is unknown; nearest: signed"),
        ("signed+cosin", "'cosin' is unknown; nearest: cosine"),
        ("signed", "'' is unknown"),
        ("min_max+rbf", "rbf needs a positive sigma"),
        ("min_max+rbf+0", "rbf needs a positive sigma"),
        ("min_max+rbf+x", "rbf needs a positive sigma"),
        ("signed+cosine+5", "cosine has no sigma"),
    ],
)
def test_a_rule_that_is_none_is_named(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("+", r"\+")) as refused:
        rule_by_name(name)
    assert str(refused.value).startswith(f"score.rules: {name}: ")


def test_a_rule_s_name_is_read_as_it_is_written() -> None:
    for name in ("signed+cosine", "min_max+rbf+2.5", "squares+rbf_raw+0.001"):
        assert rule_by_name(name).name == name


def test_a_row_a_rule_of_what_the_findings_are_by_it() -> None:
    members = pd.DataFrame({"member": [*NAMES, "d", "consensus"], "accuracy": [0.1, 0.5, 0.4, 0.9, 0.95]})
    rules = pd.DataFrame({"rule": "r", "member": members["member"], "consensus_score": [1.0, 2, 4, 3, np.nan]})
    rules["mean_average_precision"] = [0.2, 0.4, 0.3, 0.1, 0.5]
    (row,) = by_rule(rules, members).to_dict("records")
    assert row["pearson_r"] == pytest.approx(pearsonr([1, 2, 4, 3], [0.1, 0.5, 0.4, 0.9])[0])
    assert (row["n"], row["median_score"]) == (4, 2.5)
    precision = [row[f"mean_average_precision_{which}"] for which in ("consensus", "best_member", "mean_member")]
    assert precision == pytest.approx([0.5, 0.4, 0.25])
