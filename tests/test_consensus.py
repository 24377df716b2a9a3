import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from xconsensus.consensus import (
    SIMILARITIES,
    VOTES,
    Similarity,
    consensus,
    cosine,
    min_max,
    normalised_squares,
    rbf,
    rbf_raw,
    squares,
)

MEMBERS, DIMENSIONS = 5, 17
# what each explainer's vote is scored with in the paper
PAIRS = [("normalised_squares", "cosine"), ("min_max", "rbf"), ("min_max", "rbf_raw"), ("squares", "cosine")]


def consensus_of(ballots: Iterable[Tensor]) -> Tensor:
    """The consensus of one image."""
    (agreed,) = consensus([ballot] for ballot in ballots)
    return agreed


def explanations_of(seed: int, members: int = MEMBERS) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(members, DIMENSIONS)))


def scores_of(explanations: Tensor, vote: str, similarity: str) -> Tensor:
    agreed = consensus_of(VOTES[vote](explanation) for explanation in explanations)
    return Similarity(similarity, sigma=1.5, sigma_pixels=DIMENSIONS)(explanations, agreed)


@pytest.mark.parametrize("seed", range(3))
def test_limes_vote_and_score_are_the_papers_equations(seed: int) -> None:
    explanations = explanations_of(seed)
    members = explanations.tolist()
    agreed = []
    for k in range(DIMENSIONS):
        total = 0.0
        for weights in members:
            total += weights[k] ** 2 / math.sqrt(sum(value**2 for value in weights))
        agreed.append(total / MEMBERS)
    expected = []
    for weights in members:
        product = sum(a * c for a, c in zip(weights, agreed, strict=True))
        norms = math.sqrt(sum(a**2 for a in weights)) * math.sqrt(sum(c**2 for c in agreed))
        expected.append(product / norms)
    found = consensus_of(normalised_squares(explanation) for explanation in explanations)
    assert found.tolist() == pytest.approx(agreed)
    assert cosine(explanations, found).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_smoothgrads_vote_and_score_are_the_papers_equations(seed: int) -> None:
    explanations, sigma = explanations_of(seed), 1.3
    members = explanations.tolist()
    normalised = [[(value - min(each)) / (max(each) - min(each)) for value in each] for each in members]
    agreed = [sum(each[k] for each in normalised) / MEMBERS for k in range(DIMENSIONS)]
    expected = []
    for each in normalised:
        distance = math.sqrt(sum((a - c) ** 2 for a, c in zip(each, agreed, strict=True)))
        expected.append(math.exp(-((distance / sigma) ** 2) / 2))
    found = consensus_of(min_max(explanation) for explanation in explanations)
    assert found.tolist() == pytest.approx(agreed)
    assert rbf(explanations, found, sigma).tolist() == pytest.approx(expected)


def test_the_later_vote_is_the_plain_mean_of_squares() -> None:
    explanations = explanations_of(0)
    expected = [sum(row[k] ** 2 for row in explanations.tolist()) / MEMBERS for k in range(DIMENSIONS)]
    assert consensus_of(map(squares, explanations)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("vote", VOTES)
def test_a_vote_of_many_explanations_is_that_of_each(vote: str) -> None:
    explanations = explanations_of(1)
    explanations[2] = 0
    torch.testing.assert_close(VOTES[vote](explanations), torch.stack(list(map(VOTES[vote], explanations))))


@pytest.mark.parametrize("vote", VOTES)
def test_zero_explanations_cast_zero_ballots(vote: str) -> None:
    assert torch.equal(VOTES[vote](torch.zeros(DIMENSIONS)), torch.zeros(DIMENSIONS))


def test_constant_maps_cast_zero_ballots() -> None:
    assert torch.equal(min_max(torch.full((2, DIMENSIONS), 3.7)), torch.zeros(2, DIMENSIONS))


def test_cosine_with_nothing_is_zero_and_not_nan() -> None:
    explanations, zero = explanations_of(0), torch.zeros(DIMENSIONS, dtype=torch.float64)
    assert torch.equal(cosine(explanations, zero), torch.zeros(MEMBERS, dtype=torch.float64))
    explanations[3] = 0
    similarities = cosine(explanations, torch.ones(DIMENSIONS, dtype=torch.float64))
    assert similarities[3] == 0
    assert (similarities[:3] != 0).all()


def test_min_max_maps_the_least_to_0_and_the_greatest_to_1_in_their_order() -> None:
    explanations = explanations_of(2)
    ballots = min_max(explanations)
    assert torch.equal(ballots.amin(1), torch.zeros(MEMBERS, dtype=torch.float64))
    assert torch.equal(ballots.amax(1), torch.ones(MEMBERS, dtype=torch.float64))
    assert torch.equal(ballots.argsort(1), explanations.argsort(1))
    torch.testing.assert_close(min_max(3 * explanations - 5), ballots)


def test_scores_are_blind_to_what_the_paper_normalises_away() -> None:
    explanations = explanations_of(3)
    agreed = torch.rand(DIMENSIONS, dtype=torch.float64)
    torch.testing.assert_close(cosine(4 * explanations, agreed), cosine(explanations, agreed))
    torch.testing.assert_close(cosine(-explanations, agreed), -cosine(explanations, agreed))
    torch.testing.assert_close(rbf(4 * explanations + 1, agreed, 2.0), rbf(explanations, agreed, 2.0))


def test_identical_smoothgrad_members_score_1() -> None:
    explanations = explanations_of(4)[:1].repeat(7, 1)
    torch.testing.assert_close(scores_of(explanations, "min_max", "rbf"), torch.ones(7, dtype=torch.float64))


def test_identical_lime_members_score_alike_and_1_when_their_squares_are_proportional() -> None:
    explanations = explanations_of(4)[:1].repeat(7, 1)
    scores = scores_of(explanations, "normalised_squares", "cosine")
    assert (scores == scores[0]).all()
    one_level = torch.tensor([0.0, 1, 1, 0, 1], dtype=torch.float64).repeat(3, 1)
    torch.testing.assert_close(scores_of(one_level, "normalised_squares", "cosine"), torch.ones(3).double())


@pytest.mark.parametrize(("vote", "similarity"), PAIRS)
def test_the_order_of_members_changes_nothing(vote: str, similarity: str) -> None:
    explanations = explanations_of(5, members=4)
    scores = scores_of(explanations, vote, similarity)
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(scores_of(explanations[list(order)], vote, similarity), scores[list(order)])


@pytest.mark.parametrize(("vote", "similarity"), PAIRS)
def test_the_order_of_dimensions_changes_nothing(vote: str, similarity: str) -> None:
    explanations = explanations_of(6)
    shuffled = explanations[:, torch.randperm(DIMENSIONS, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(scores_of(shuffled, vote, similarity), scores_of(explanations, vote, similarity))


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streaming_members_equals_stacking_them(vote: str, dtype: torch.dtype) -> None:
    ballots = VOTES[vote](explanations_of(7).to(dtype))
    streamed = consensus_of(iter(ballots))
    assert streamed.dtype == dtype
    # a sum is off by the last place of the sum of what its numbers amount to, for each of them, at most
    bound = (len(ballots) + 1) * torch.finfo(dtype).eps * ballots.double().abs().mean(0)
    assert ((streamed.double() - ballots.double().mean(0)).abs() <= bound).all()


def test_several_images_are_voted_on_apart() -> None:
    images = [torch.rand(MEMBERS, dimensions) for dimensions in (3, 17, 5)]
    kept = [image.clone() for image in images]
    together = consensus((min_max(image[member]) for image in images) for member in range(MEMBERS))
    for found, image in zip(together, images, strict=True):
        assert torch.equal(found, consensus_of(min_max(image)))
    assert all(map(torch.equal, images, kept))
    one_short = [[images[0][0], images[1][0]], [images[0][1]]]
    with pytest.raises(ValueError, match="shorter"):
        consensus(one_short)


def test_no_members_have_no_consensus() -> None:
    with pytest.raises(ValueError, match="at least one member"):
        consensus(iter([]))


def test_similarities_lie_in_their_ranges() -> None:
    explanations = explanations_of(8, members=50)
    signed = scores_of(explanations, "normalised_squares", "cosine")
    assert signed.min() < 0 < signed.max()
    assert signed.abs().max() <= 1
    maps = scores_of(explanations, "min_max", "rbf")
    assert 0 < maps.min() < maps.max() <= 1


@pytest.mark.parametrize("side", [2, 16, 56, 224])
def test_the_same_difference_a_pixel_scores_alike_at_every_size(side: int) -> None:
    tile = torch.tensor([[0.0, 1.0], [0.3, 0.8]], dtype=torch.float64)
    other = torch.tensor([[0.1, 0.7], [0.3, 0.4]], dtype=torch.float64)
    repeats = side // 2, side // 2
    score = Similarity("rbf", sigma=40.0)(tile.repeat(repeats).flatten(), other.repeat(repeats).flatten())
    mean_square = ((tile - other) ** 2).mean().item()
    assert float(score) == pytest.approx(math.exp(-(mean_square * 224 * 224 / 40**2) / 2))
    assert 0.1 < score < 0.9


def test_sigma_holds_as_given_at_its_own_number_of_pixels() -> None:
    explanations = explanations_of(9)
    agreed = consensus_of(map(min_max, explanations))
    found = Similarity("rbf", sigma=0.7, sigma_pixels=DIMENSIONS)(explanations, agreed)
    torch.testing.assert_close(found, rbf(explanations, agreed, 0.7))


def test_every_named_similarity_is_its_function() -> None:
    explanations = explanations_of(10)
    agreed = consensus_of(map(min_max, explanations))
    by_name = {name: Similarity(name, sigma_pixels=DIMENSIONS)(explanations, agreed) for name in SIMILARITIES}
    expected = {"cosine": cosine(explanations, agreed)}
    expected |= {"cosine_squared": cosine(explanations**2, agreed), "rbf": rbf(explanations, agreed, 5)}
    torch.testing.assert_close(by_name, {**expected, "rbf_raw": rbf_raw(explanations, agreed, 5)})


def test_the_raw_rbf_compares_maps_as_they_are() -> None:
    explanations, agreed = explanations_of(11), torch.rand(DIMENSIONS, dtype=torch.float64)
    expected = [
        math.exp(-sum((a - c) ** 2 for a, c in zip(each, agreed.tolist(), strict=True)) / (2 * 1.3**2))
        for each in explanations.tolist()
    ]
    assert rbf_raw(explanations, agreed, 1.3).tolist() == pytest.approx(expected)
    normalised = min_max(explanations)
    torch.testing.assert_close(rbf_raw(normalised, agreed, 1.3), rbf(explanations, agreed, 1.3))
