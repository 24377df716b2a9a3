"""The committee as one classifier: averaged probabilities and majority vote."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def ensemble_accuracy(members: Iterable[tuple[Tensor, Tensor]]) -> tuple[list[float], float, float]:
    """Accuracies of each member, of their averaged probabilities, and of their majority vote, in 0..1.

    ``members`` gives each member's probabilities (n, classes) and the labels (n,), one member at a time. A tied
    vote goes to the class of higher averaged probability.
    """
    accuracies, count = [], 0
    total = votes = labels = torch.zeros(())
    for probabilities, labels in members:
        predicted = probabilities.argmax(1)
        accuracies.append(_share(predicted == labels))
        total = total + probabilities.double()
        votes = votes + F.one_hot(predicted, probabilities.shape[1])
        count += 1
    mean = total / count
    return accuracies, _share(mean.argmax(1) == labels), _share((votes + mean / 2).argmax(1) == labels)


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
