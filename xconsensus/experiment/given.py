"""What scores are made from: the explained images, every member's explanations of them, and the consensus."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.datasets import Record, mask_kind
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import chosen_by, explained_images, label_maps, segmenter_settings
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.explanations import (
    complete_consensus,
    complete_explanations,
    explained_right,
    without_missing,
)
from xconsensus.experiment.predicted import test_predictions
from xconsensus.scores.accuracy import ensemble_accuracy
from xconsensus.scores.metrics import AP_WEIGHTS, Intervals, areas
from xconsensus.scores.tables_of_members import with_mask_kind
from xconsensus.store.shards import Shards


@dataclass(frozen=True)
class Given:
    """What scores are made from: the ``explained`` images, every member's explanations, and the consensus.

    ``labels`` are the superpixels of explainers on these.
    """

    experiment: Experiment
    explained: list[Record]
    explanations: list[Shards]
    consensus: Shards
    labels: Shards | None

    @cached_property
    def right(self) -> NDArray[np.float64]:
        """`explained_right` of the explained images."""
        return explained_right(self.explanations, self.explained)

    @cached_property
    def records(self) -> list[Record]:
        """The images that scores are of; InputError where none is left.

        The paper's are those "all of which make the correct predictions". So where images were chosen by that, one of
        which some member explains another class than the label is left out of everybody's scores: the consensus that
        others are compared with holds that member's vote for something else, and members stay comparable. Members of
        random weights are not asked: they guess.
        """
        if chosen_by(self.experiment) != "all":
            return self.explained
        wrong = np.flatnonzero(self._wrong[:, self.places()].any(axis=1))
        kept = [record for row, record in enumerate(self.explained) if row not in wrong]
        if not kept:
            raise InputError(
                f"{self.experiment.explainer_name}: on the explained crop some member is wrong about each of the"
                f" {len(self.explained)} images, {self.whose}: set explain.only_correct=any, or leave out those members"
            )
        return kept

    @property
    def whose(self) -> str:
        """Members that explain another class than the label, and of how many images each."""
        counts = zip(self.experiment.trained_members, self._wrong[:, self.places()].sum(0), strict=True)
        return ", ".join(f"{member.name} of {count}" for member, count in counts if count)

    @property
    def _wrong(self) -> NDArray[np.bool_]:
        return np.equal(self.right, 0)

    def places(self, random: bool = False) -> list[int]:
        """Positions of the members with trained weights, or with random ones."""
        return [place for place, member in enumerate(self.experiment.members) if member.random is random]

    @cached_property
    def classified(self) -> tuple[tuple[list[float], float, float], NDArray[np.int64], NDArray[np.int64]]:
        """`ensemble_accuracy` of the test images, their classes by each member (m, n), and their labels (n,).

        Memory holds one member's probabilities.
        """
        predicted: list[NDArray[np.int64]] = []
        labels = torch.empty(0)

        def members() -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal labels
            for probabilities, labels in test_predictions(self.experiment):
                predicted.append(probabilities.argmax(1).numpy())
                yield probabilities, labels

        found = ensemble_accuracy(members())
        return found, np.stack(predicted), labels.numpy()

    @property
    def ids(self) -> list[str]:
        """The ids of the images that scores are of."""
        return [record.image_id for record in self.records]

    @property
    def folder(self) -> Path:
        """Where the scores go."""
        return self.experiment.store.scores(self.experiment.committee, self.experiment.explainer_name)

    @property
    def intervals(self) -> Intervals:
        """Intervals over images, as ``score`` has them."""
        options = self.experiment.config["score"]
        return Intervals(options["bootstrap"], options["level"], self.experiment.seed)

    @property
    def weighted(self) -> Callable[[NDArray[np.floating]], NDArray[np.floating]]:
        """What turns a map before its average precision: ``score.ap_weights``."""
        return AP_WEIGHTS[self.experiment.config["score"]["ap_weights"]]

    def marked(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with average precisions, where masks are boxes with the column masks, which says so."""
        return with_mask_kind(table, mask_kind(self.experiment.dataset))

    def areas(self, record: Record, mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """`metrics.areas` of an image's explanations and a mask of it."""
        labels = self.labels.values(record.image_id).numpy() if self.labels else None
        return areas(mask, labels, self.experiment.images.void(record))


def what_is_given(experiment: Experiment) -> Given:
    """All that scores are made from; MissingStageError when explanations, or the consensus of an image, are missing."""
    records = explained_images(experiment)
    ids = [record.image_id for record in records]
    experiment = without_missing(experiment, ids)
    explanations, consensus = complete_explanations(experiment, ids), complete_consensus(experiment, ids)
    labels = label_maps(experiment) if segmenter_settings(experiment) else None
    return Given(experiment, records, explanations, consensus, labels)
