"""The maps of one explainer as they lie on the explained images."""

import numpy as np
from numpy.typing import NDArray

from xconsensus.experiment.artefacts import (
    consensus_of,
    explanations_of,
    label_maps,
    segmenter_settings,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment
from xconsensus.published import ENSEMBLE
from xconsensus.store.shards import Shards


class Maps:
    """The maps of one explainer: members' explanations, and the consensus, (size, size)."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.members = {member.name: member for member in experiment.members}
        self.labels = label_maps(experiment) if segmenter_settings(experiment) else None
        self._shards: dict[str, Shards] = {}

    def of(self, member: str, image_id: str) -> NDArray[np.floating]:
        """The explanation of a member, or the consensus: superpixels painted with their values."""
        values = self.shards(member).value(image_id).numpy()
        if self.labels:
            values = values[self.labels.value(image_id).numpy()]
        size = self.experiment.images.size
        return np.asarray(values.reshape(size, size))

    def shards(self, member: str) -> Shards:
        """The artefacts that the maps are read from."""
        if member not in self._shards:
            self._shards[member] = (
                consensus_of(self.experiment)
                if member == ENSEMBLE
                else explanations_of(self.experiment, with_trained_weights(self.experiment, self.members[member]))
            )
        return self._shards[member]
