"""All members' explanations: which are there, and in which order they are read, member by member or image by image."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.datasets import Record
from xconsensus.errors import MissingStageError
from xconsensus.experiment.artefacts import (
    consensus_of,
    explanations_of,
    needs,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment
from xconsensus.progress import log
from xconsensus.store.shards import Shards

IMAGES_AT_A_TIME = 64
IN_CACHE = 8  # images computed with at once: their maps of 224x224 stay in the cores' caches from step to step


def complete_explanations(experiment: Experiment, ids: Sequence[str]) -> list[Shards]:
    """Every member's explanations; MissingStageError naming the members that lack some of the images."""
    members = _explanations(experiment)
    if lacking := _lacking(members, ids):
        told = experiment.config["committee"]["allow_missing"]
        advice = "" if told else ", and committee.allow_missing=true, which goes on without them, is not set"
        raise needs(
            "explain",
            f"{experiment.explainer_name} explanations are missing of {len(lacking)} of {len(members)} members"
            f" ({', '.join(lacking[:5])}{' ...' if len(lacking) > 5 else ''}){advice}",
        )
    return [shards for shards in members.values() if shards is not None]


def explained_right(explanations: Sequence[Shards], records: Sequence[Record]) -> NDArray[np.float64]:
    """Whether the class that a member predicts on the explained crop is the image's label: (images, members), 1 or 0,
    NaN where label or class is unknown.

    Members judge images as they see them, with a crop of their own; the crop that is explained may show them less.
    """
    ids, labels = [record.image_id for record in records], np.array([float(record.label) for record in records])
    predicted = np.stack([shards.numbers(ids, "predicted") for shards in explanations], axis=1)
    known = np.isfinite(predicted) & (labels >= 0)[:, None]
    return np.where(known, predicted == labels[:, None], np.nan)


def complete_consensus(experiment: Experiment, ids: Sequence[str]) -> Shards:
    """The consensus; MissingStageError where it lacks some of the images."""
    consensus = consensus_of(experiment)
    if missing := consensus.missing(ids):
        raise needs("vote", f"{consensus.folder}: {len(missing)} of {len(ids)} images lack a consensus")
    return consensus


def without_missing(experiment: Experiment, ids: Sequence[str]) -> Experiment:
    """With committee.allow_missing=true, the experiment without the members that lack explanations, and a line that
    says which; unless all do.
    """
    if not experiment.config["committee"]["allow_missing"]:
        return experiment
    lacking = _lacking(_explanations(experiment), ids)
    if not 0 < len(lacking) < len(experiment.members):
        return experiment
    log.info(f"{experiment.explainer_name}: without {', '.join(lacking)}, whose explanations are missing")
    return experiment.without(lacking)


def by_member(members: Sequence[Shards], ids: Sequence[str]) -> Iterator[Shards]:
    """Each member's explanations, the next one's fetched meanwhile, forgotten before the next: memory holds one's."""
    for shards, following in zip(members, [*members[1:], None], strict=True):
        if following:
            following.fetch(ids)
        yield shards
        shards.release()


def by_image(members: Sequence[Shards], ids: Sequence[str]) -> Iterator[Tensor]:
    """The explanations of all members of one image after the other, (m, K), in the members' order.

    Memory holds all members' maps of ``IMAGES_AT_A_TIME`` images.
    """
    for start in range(0, len(ids), IMAGES_AT_A_TIME):
        some = ids[start : start + IMAGES_AT_A_TIME]
        rows: list[list[Tensor]] = [[] for _ in some]
        for shards in by_member(members, some):
            for place, values in in_full_precision(shards, some):
                for row, each in zip(rows[place], values, strict=True):
                    row.append(each)
        yield from map(torch.stack, rows)


def in_full_precision(explanations: Shards, ids: Sequence[str], size: int = IN_CACHE) -> Iterator[tuple[slice, Tensor]]:
    """Explanations, at most ``size`` at once (n, K), with their place in ``ids``, as votes and similarities take them.

    float64; of maps packed as float16, float32: that rounds 2,000 times less than their packing did.
    """
    for place, values in explanations.blocks(ids, size):
        yield place, values if explanations.packed else values.double()


def _explanations(experiment: Experiment) -> dict[str, Shards | None]:
    """Each member's explanations; None of one that is not even trained."""
    found: dict[str, Shards | None] = {}
    for member in experiment.members:
        try:
            found[member.name] = explanations_of(experiment, with_trained_weights(experiment, member))
        except MissingStageError:
            found[member.name] = None
    return found


def present_explanations(experiment: Experiment) -> list[Shards]:
    """The explanations of the members that have weights."""
    return [shards for shards in _explanations(experiment).values() if shards is not None]


def _lacking(members: dict[str, Shards | None], ids: Sequence[str]) -> list[str]:
    return [name for name, shards in members.items() if shards is None or shards.missing(ids)]
