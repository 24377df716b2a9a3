from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from xconsensus.scores.accuracy import ensemble_accuracy


def committee_of(seed: int, members: int, images: int = 80, classes: int = 4) -> tuple[list[Tensor], Tensor]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.7), (members, images))
    return list(torch.from_numpy(probabilities).float()), torch.from_numpy(rng.integers(0, classes, images))


def by_hand(probabilities: list[Tensor], labels: Tensor) -> tuple[list[float], float, float]:
    members = [each.tolist() for each in probabilities]
    classes = range(len(members[0][0]))
    alone, averaged, voted = [0] * len(members), 0, 0
    for i, label in enumerate(labels.tolist()):
        mean = [sum(member[i][c] for member in members) / len(members) for c in classes]
        winners = [max(classes, key=lambda c, row=member[i]: row[c]) for member in members]  # type: ignore[misc]
        for j, winner in enumerate(winners):
            alone[j] += winner == label
        averaged += max(classes, key=lambda c: mean[c]) == label
        votes = Counter(winners)
        tied = [c for c in classes if votes[c] == max(votes.values())]
        voted += max(tied, key=lambda c: mean[c]) == label
    n = len(labels)
    return [hits / n for hits in alone], averaged / n, voted / n


@pytest.mark.parametrize("members", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_accuracies_are_those_counted_image_by_image(seed: int, members: int) -> None:
    probabilities, labels = committee_of(seed, members)
    alone, averaged, voted = ensemble_accuracy((each, labels) for each in probabilities)
    expected = by_hand(probabilities, labels)
    assert alone == pytest.approx(expected[0])
    assert (averaged, voted) == pytest.approx(expected[1:])


def test_one_member_is_its_own_ensemble() -> None:
    probabilities, labels = committee_of(0, 1)
    (alone,), averaged, voted = ensemble_accuracy([(probabilities[0], labels)])
    assert alone == averaged == voted
    assert 0 < alone < 1


def test_a_majority_outvotes_a_confident_minority_whose_average_wins() -> None:
    sure, unsure = torch.tensor([[0.99, 0.01]]), torch.tensor([[0.45, 0.55]])
    for label, average_wins in ((0, 1.0), (1, 0.0)):
        labels = torch.tensor([label])
        _, averaged, voted = ensemble_accuracy([(sure, labels), (unsure, labels), (unsure, labels)])
        assert (averaged, voted) == (average_wins, 1 - average_wins)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tied_vote_goes_to_the_class_of_higher_average(order: tuple[int, int]) -> None:
    # each member votes for another class; class 2 has the highest average of all but no vote
    members = torch.tensor([[[0.36, 0.29, 0.35, 0.0]], [[0.0, 0.4, 0.39, 0.21]]])
    for label in range(4):
        labels = torch.tensor([label])
        _, averaged, voted = ensemble_accuracy((members[i], labels) for i in order)
        assert averaged == (label == 2)
        assert voted == (label == 1)


def test_the_order_of_members_changes_their_order_alone() -> None:
    probabilities, labels = committee_of(5, 5)
    alone, averaged, voted = ensemble_accuracy((each, labels) for each in probabilities)
    backwards = ensemble_accuracy((each, labels) for each in reversed(probabilities))
    assert backwards == (alone[::-1], averaged, voted)


def test_images_of_unknown_label_do_not_count() -> None:
    probabilities, labels = committee_of(0, 3)
    unknown = torch.where(torch.arange(80) % 3 == 0, -1, labels)
    known = unknown >= 0
    expected = ensemble_accuracy((each[known], labels[known]) for each in probabilities)
    assert ensemble_accuracy((each, unknown) for each in probabilities) == expected
    alone, averaged, voted = ensemble_accuracy((each, torch.full_like(labels, -1)) for each in probabilities)
    assert np.isnan([*alone, averaged, voted]).all()
