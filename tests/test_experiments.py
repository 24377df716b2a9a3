import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from xconsensus.errors import InputError
from xconsensus.experiments import growing_committees, random_committees
from xconsensus.metrics import average_precision

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
    table = growing_committees(votes, positives, counts, sizes=[2], trials=30)
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


def test_the_full_committee_has_one_trial_the_others_all() -> None:
    table = growing_committees(*images(0, members=6), sizes=[6, 1, 3, 3], trials=7)
    assert table.groupby("size")["trial"].apply(list).to_dict() == {1: [*range(7)], 3: [*range(7)], 6: [0]}


def test_single_members_score_their_own_average_precision() -> None:
    votes, positives, counts = images(1, members=4)
    own = [
        np.mean([average_precision(v[j], p, c) for v, p, c in zip(votes, positives, counts, strict=True)])
        for j in range(4)
    ]
    drawn = growing_committees(votes, positives, counts, sizes=[1], trials=20)["mean_average_precision"]
    assert set(np.round(drawn, 12)) <= set(np.round(own, 12))


def test_independent_noise_cancels_in_larger_committees() -> None:
    table = growing_committees(*images(2, members=40, noise=2), sizes=[1, 5, 20, 40], trials=10)
    means = table.groupby("size")["mean_average_precision"].mean()
    assert means.is_monotonic_increasing
    assert means[40] > means[1] + 0.2


def test_committees_of_a_size_depend_on_the_seed_but_not_on_the_other_sizes() -> None:
    data = images(3, members=10)
    alone = growing_committees(*data, sizes=[4], trials=5)
    among = growing_committees(*data, sizes=[2, 4, 10], trials=5)
    np.testing.assert_allclose(
        alone["mean_average_precision"], among.query("size == 4")["mean_average_precision"], rtol=1e-12
    )
    other = growing_committees(*data, sizes=[4], trials=5, seed=1)
    assert not alone.equals(other)


def test_images_without_an_object_are_left_out() -> None:
    votes, positives, counts = images(4, members=5)
    expected = growing_committees(votes, positives, counts, sizes=[2, 5], trials=3)
    positives, counts = [*positives, np.zeros(9, int)], [*counts, np.full(9, 10)]
    observed = growing_committees([*votes, np.ones((5, 9))], positives, counts, sizes=[2, 5], trials=3)
    np.testing.assert_array_equal(observed, expected)


def test_growing_committees_names_what_is_wrong() -> None:
    votes, positives, counts = images(0, members=3)
    with pytest.raises(InputError, match="size 4 of 3 members"):
        growing_committees(votes, positives, counts, sizes=[4])
    with pytest.raises(InputError, match="no image to vote on"):
        growing_committees([], [], [], sizes=[1])
    with pytest.raises(InputError, match=r"\[2, 3\] members"):
        growing_committees([*votes[:-1], votes[-1][:2]], positives, counts, sizes=[1])
    with pytest.raises(InputError, match="no image has an object"):
        growing_committees(votes, [0 * inside for inside in positives], counts, sizes=[1])


def negative_distance(explanations: Floats, consensus: Floats) -> Floats:
    return np.asarray(-np.linalg.norm(explanations - consensus, axis=1))


def test_a_committee_of_everyone_gives_the_family_its_full_scores() -> None:
    votes, _, _ = images(5, members=12)
    table = random_committees(votes, votes, negative_distance, family=range(5), extras=(7, 7), trials=3)
    np.testing.assert_allclose(table["pearson_r"], 1)
    np.testing.assert_allclose(table["spearman_r"], 1)


def test_committees_hold_the_family_and_extras_within_bounds() -> None:
    seen = []

    def spy(explanations: Floats, consensus: Floats) -> Floats:
        seen.append(consensus)
        return negative_distance(explanations, consensus)

    one_hot = [np.eye(30)]
    table = random_committees(one_hot, one_hot, spy, family=[2, 3, 7, 20, 29], extras=(4, 9), trials=40)
    committees = [set(np.flatnonzero(consensus)) for consensus in seen[1:]]
    assert all({2, 3, 7, 20, 29} <= committee for committee in committees)
    assert [len(committee) for committee in committees] == list(table["size"])
    assert set(table["size"]) == set(range(9, 15))


def test_more_extras_than_members_are_refused() -> None:
    votes, _, _ = images(0, members=6)
    with pytest.raises(InputError, match="lower extras"):
        random_committees(votes, votes, negative_distance, family=[0, 1, 2, 3], extras=(1, 3))
