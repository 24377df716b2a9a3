"""Scores by the votes of others, and what predictions alone say of members."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from xconsensus.consensus import Similarity, normalised_squares
from xconsensus.scores.measures import (
    measures_table,
    of_predictions,
    partial_correlation,
    scores_by_votes,
    votes_of_others,
    with_accuracy,
)

FAMILIES = ("a", "b", "a", "c", "b", "a")


def explanations() -> torch.Tensor:
    """Of six members, (6, 30)."""
    return torch.randn(6, 30, generator=torch.Generator().manual_seed(2)).double()


def test_a_member_s_own_ballot_and_its_family_s_are_left_out() -> None:
    maps = explanations()
    ballots = normalised_squares(maps)
    similarity = Similarity("cosine")
    votes = votes_of_others(FAMILIES)
    found = {vote: similarity.to_means(maps, ballots, torch.from_numpy(w)).diagonal() for vote, w in votes.items()}
    complete = ballots.mean(0)
    by_family = torch.stack([ballots[[f == family for f in FAMILIES]].mean(0) for family in "abc"]).mean(0)
    for i, family in enumerate(FAMILIES):
        without_itself = (6 * complete - ballots[i]) / 5
        without_family = ballots[[other != family for other in FAMILIES]].mean(0)
        expected = [without_itself, without_family, by_family]
        assert [float(values[i]) for values in found.values()] == pytest.approx(
            [float(similarity(maps[i], consensus)) for consensus in expected]
        )


def test_scores_are_of_each_member_s_own_vote_and_images() -> None:
    images = [explanations(), 2 * explanations().flip(1)]
    images[1][2] = 0.5  # one value everywhere
    votes = votes_of_others(["a", "a", "a", "b", "a", "a"])
    ballots = [(maps, normalised_squares(maps)) for maps in images]
    found = scores_by_votes(iter(ballots), votes, Similarity("cosine"))
    assert list(found) == list(votes)
    for vote, weights in votes.items():
        assert found[vote].shape == (2, 6)
        for image, (maps, own) in enumerate(ballots):
            for i in range(6):
                expected = float(Similarity("cosine")(maps[i], torch.from_numpy(weights[i]) @ own))
                assert found[vote][image, i] == pytest.approx(np.nan if (image, i) == (1, 2) else expected, nan_ok=True)
    alone = scores_by_votes(iter(ballots), votes_of_others(["a"] * 6), Similarity("cosine"))
    assert np.isnan(alone["score_without_family"]).all()


def test_nobody_votes_where_all_are_one_family() -> None:
    votes = votes_of_others(["a", "a", "a"])
    assert np.isnan(votes["score_without_family"]).all()
    assert votes["score_families_alike"] == pytest.approx(1 / 3)


def test_agreement_is_counted_image_by_image() -> None:
    generator = np.random.default_rng(0)
    probabilities = [torch.from_numpy(generator.dirichlet(np.ones(3), 40)).float() for _ in range(4)]
    found = of_predictions(lambda: iter(probabilities))
    classes = [[max(range(3), key=row.__getitem__) for row in each.tolist()] for each in probabilities]
    for i in range(4):
        others = [j for j in range(4) if j != i]
        mean = [np.mean([probabilities[j][n].tolist() for j in others], axis=0) for n in range(40)]
        assert found["agreement_with_others"][i] == np.mean([classes[i][n] == np.argmax(mean[n]) for n in range(40)])
        pairs = [np.mean([classes[i][n] == classes[j][n] for n in range(40)]) for j in others]
        assert found["agreement_of_pairs"][i] == pytest.approx(np.mean(pairs))
        entropy = stats.entropy(probabilities[i].double().numpy(), axis=1).mean()
        assert found["negative_entropy"][i] == pytest.approx(-entropy, rel=1e-6)
        assert found["largest_probability"][i] == pytest.approx(
            np.mean([max(row) for row in probabilities[i].tolist()])
        )


def test_a_probability_of_zero_has_no_entropy_and_one_member_no_others() -> None:
    found = of_predictions(lambda: iter([torch.tensor([[0.0, 1.0], [1.0, 0.0]])]))
    assert found["negative_entropy"][0] == 0
    assert found["largest_probability"][0] == 1
    assert np.isnan(found[["agreement_with_others", "agreement_of_pairs"]]).all(axis=None)


def test_partial_correlation_is_that_of_residuals() -> None:
    generator = np.random.default_rng(5)
    z = generator.normal(size=20)
    x, y = z + generator.normal(size=20), z - generator.normal(size=20)
    residuals = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    found = partial_correlation(pd.Series(x), pd.Series(y), pd.Series(z))
    assert found == pytest.approx(stats.pearsonr(*residuals).statistic)
    assert np.isnan(partial_correlation(pd.Series(x), pd.Series(2 * z), pd.Series(z)))


def test_each_measure_stands_beside_accuracy() -> None:
    generator = np.random.default_rng(1)
    names = [f"m{i}" for i in range(8)]
    similarities = {"score_without_itself": generator.random((5, 8))}
    drawn = torch.from_numpy(generator.dirichlet([1, 1], (8, 9)))
    predictions = of_predictions(lambda: iter(drawn))
    measures = measures_table(names, similarities, predictions)
    accuracy = generator.random(8)
    members = pd.DataFrame({"member": names[::-1], "accuracy": accuracy[::-1], "consensus_score": generator.random(8)})
    found = with_accuracy(measures, members).set_index("measure")
    assert list(found.index) == ["consensus_score", *measures.columns[1:]]
    own = similarities["score_without_itself"].mean(0)
    assert found.loc["score_without_itself", "pearson_r"] == pytest.approx(stats.pearsonr(own, accuracy).statistic)
    assert found["partial_r"].isna().tolist() == [True, False, *[False] * (len(found) - 2)]
