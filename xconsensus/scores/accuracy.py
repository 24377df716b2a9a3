"""The committee as one classifier: averaged probabilities and majority vote."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

# plot.ensemble -> the column of members.csv with the committee's accuracy by it, and its name in captions
ENSEMBLES: Mapping[str, tuple[str, str]] = {
    "averaging": ("accuracy", "averaged probabilities"),
    "voting": ("majority_vote_accuracy", "majority vote"),
}


def ensemble_accuracy(members: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[float], float, float]:
    """Accuracies of each member, of their averaged probabilities, and of their majority vote, in 0..1.

    ``members`` gives each member's probabilities (n, classes) and the labels (n,), one member at a time. A tied
    vote goes to the class of higher averaged probability. Images of unknown label, -1, do not count; NaN where all
    labels are unknown.
    """
    accuracies, count = [], 0
    total = votes = labels = torch.zeros(())
    for probabilities, labels in members:
        predicted = probabilities.argmax(1)
        accuracies.append(accuracy(predicted, labels))
        total = total + probabilities.double()
        votes = votes + F.one_hot(predicted, probabilities.shape[1])
        count += 1
    mean = total / count
    return accuracies, accuracy(mean.argmax(1), labels), accuracy((votes + mean / 2).argmax(1), labels)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of the images with a known label (not -1) whose predicted class (n,) is right; NaN without any."""
    known = labels >= 0
    return float((predicted == labels)[known].double().mean())
