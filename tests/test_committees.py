import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xconsensus.consensus import Similarity, consensus, min_max, normalised_squares
from xconsensus.errors import InputError
from xconsensus.scores.committees import agreement, committee_scores, growing_committees, random_committees
from xconsensus.scores.metrics import AP_WEIGHTS, average_precision

Floats = NDArray[np.floating]

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def images(
    seed: int, members: int, count: int = 4, noise: float = 1.0
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Votes that see a common object through each member's noise, on superpixels of different sizes."""
    rng = np.random.default_rng(seed)
    votes, positives, counts = [], [], []
    for _ in range(count):
        pixels = rng.integers(5, 50, rng.integers(30, 60))
        inside = np.where(rng.random(len(pixels)) < 0.3, pixels, 0)
        votes.append((inside > 0) + noise * rng.normal(size=(members, len(pixels))))
        positives.append(inside)
        counts.append(pixels)
    return votes, positives, counts


def test_each_committee_scores_as_its_mean_vote_painted_and_given_to_scikit_learn() -> None:
    votes, positives, counts = images(0, members=3)
    table = growing_committees(zip(votes, positives, counts, strict=True), len(votes[0]), sizes=[2], trials=30)
    possible = []
    for pair in itertools.combinations(range(3), 2):
        scores = []
        for vote, inside, pixels in zip(votes, positives, counts, strict=True):
            painted = np.repeat(vote[list(pair)].mean(axis=0), pixels)
            mask = np.repeat(inside > 0, pixels)
            scores.append(sklearn_metrics.average_precision_score(mask, painted))
        possible.append(np.mean(scores))
    drawn = table["mean_average_precision"].to_numpy()
    nearest = np.abs(drawn[:, None] - possible).argmin(axis=1)
    np.testing.assert_allclose(drawn, np.array(possible)[nearest], atol=1e-12)
    assert set(nearest) == {0, 1, 2}


def test_a_committee_s_map_is_turned_after_its_vote() -> None:
    votes, positives, counts = images(3, members=3)
    given = list(zip(votes, positives, counts, strict=True))
    table = growing_committees(given, 3, sizes=[3], weighted=AP_WEIGHTS["absolute"])
    painted = [np.repeat(np.abs(vote.mean(axis=0)), pixels) for vote, _, pixels in given]
    masks = [np.repeat(inside > 0, pixels) for _, inside, pixels in given]
    expected = np.mean(list(map(sklearn_metrics.average_precision_score, masks, painted)))
    assert table["mean_average_precision"].item() == pytest.approx(expected, abs=1e-12)


def test_the_full_committee_has_one_trial_the_others_all() -> None:
    table = growing_committees(zip(*images(0, members=6), strict=True), 6, sizes=[6, 1, 3, 3], trials=7)
    assert table.groupby("size")["trial"].apply(list).to_dict() == {1: [*range(7)], 3: [*range(7)], 6: [0]}


def test_single_members_score_their_own_average_precision() -> None:
    votes, positives, counts = images(1, members=4)
    own = [
        np.mean([average_precision(v[j], p, c) for v, p, c in zip(votes, positives, counts, strict=True)])
        for j in range(4)
    ]
    drawn = growing_committees(zip(votes, positives, counts, strict=True), len(votes[0]), sizes=[1], trials=20)[
        "mean_average_precision"
    ]
    assert set(np.round(drawn, 12)) <= set(np.round(own, 12))


def test_independent_noise_cancels_in_larger_committees() -> None:
    table = growing_committees(zip(*images(2, members=40, noise=2), strict=True), 40, sizes=[1, 5, 20, 40], trials=10)
    means = table.groupby("size")["mean_average_precision"].mean()
    assert means.is_monotonic_increasing
    assert means[40] > means[1] + 0.2


def test_committees_of_a_size_depend_on_the_seed_but_not_on_the_other_sizes() -> None:
    data = list(zip(*images(3, members=10), strict=True))
    alone = growing_committees(data, 10, sizes=[4], trials=5)
    among = growing_committees(data, 10, sizes=[2, 4, 10], trials=5)
    np.testing.assert_allclose(
        alone["mean_average_precision"], among.query("size == 4")["mean_average_precision"], rtol=1e-12
    )
    other = growing_committees(data, 10, sizes=[4], trials=5, seed=1)
    assert not alone.equals(other)


def test_images_without_an_object_are_left_out() -> None:
    votes, positives, counts = images(4, members=5)
    expected = growing_committees(zip(votes, positives, counts, strict=True), len(votes[0]), sizes=[2, 5], trials=3)
    positives, counts = [*positives, np.zeros(9, int)], [*counts, np.full(9, 10)]
    more = zip([*votes, np.ones((5, 9))], positives, counts, strict=True)
    observed = growing_committees(more, 5, sizes=[2, 5], trials=3)
    np.testing.assert_array_equal(observed, expected)


def test_growing_committees_names_what_is_wrong() -> None:
    votes, positives, counts = images(0, members=3)
    with pytest.raises(InputError, match="size 4 of 3 members"):
        growing_committees(zip(votes, positives, counts, strict=True), 3, sizes=[4])
    with pytest.raises(InputError, match="no image has an object"):
        growing_committees([], 3, sizes=[1])
    with pytest.raises(InputError, match="no image has an object"):
        growing_committees(((v, 0 * p, c) for v, p, c in zip(votes, positives, counts, strict=True)), 3, sizes=[1])


SIMILARITIES = [Similarity("cosine"), *(Similarity(name, 2.0, 10) for name in ("rbf", "rbf_raw"))]


@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda similarity: similarity.name)
def test_committee_scores_equal_similarities_to_each_committees_own_vote(similarity: Similarity) -> None:
    generator = torch.Generator().manual_seed(0)
    explanations = [torch.randn(9, dimensions, generator=generator) for dimensions in (7, 40)]
    explanations[1][3] = 0  # points nowhere
    committees = [np.arange(9), np.array([2, 5]), np.array([4]), np.array([3])]
    family = [0, 3, 8]
    ballot = normalised_squares if similarity.name == "cosine" else min_max
    found = committee_scores([(each[family], ballot(each)) for each in explanations], committees, similarity)
    assert found.shape == (2, 4, 3)
    for image, each in enumerate(explanations):
        for row, committee in enumerate(committees):
            (agreed,) = consensus([ballot(each[member].double())] for member in committee)
            expected = similarity(each[family].double(), agreed)
            if image == 1:
                expected[1] = torch.nan  # the zeros are similar to nothing, and are left out
            np.testing.assert_allclose(found[image, row], expected, atol=1e-6)


def test_committee_scores_need_an_image() -> None:
    with pytest.raises(InputError, match="no image to vote on"):
        committee_scores([], [np.arange(3)], SIMILARITIES[0])


def test_a_committee_of_everyone_agrees_with_itself() -> None:
    scores = np.random.default_rng(0).random(6)
    table = agreement(np.stack([scores, -scores]), scores, [np.arange(9), np.arange(8)])
    np.testing.assert_allclose(table["pearson_r"], [1, -1])
    np.testing.assert_allclose(table["spearman_r"], [1, -1])
    assert list(table["size"]) == [9, 8]


def test_random_committees_hold_the_family_and_extras_within_bounds() -> None:
    committees = random_committees(30, [2, 3, 7, 20, 29], extras=(4, 9), trials=40)
    assert len(committees) == 40
    assert all({2, 3, 7, 20, 29} <= set(committee) for committee in committees)
    assert all(len(set(committee)) == len(committee) for committee in committees)
    assert {len(committee) for committee in committees} == set(range(9, 15))
    assert len({tuple(sorted(committee)) for committee in committees}) == 40


def test_more_extras_than_members_are_refused() -> None:
    with pytest.raises(InputError, match=r"lower plot.extras"):
        random_committees(6, [0, 1, 2, 3], extras=(1, 3))
