"""What scores are of: members' accuracies, similarities and average precisions, measured some images at a time."""

from contextlib import suppress
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from xconsensus.datasets import Record
from xconsensus.datasets.selection import choose
from xconsensus.errors import InputError
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.explanations import IMAGES_AT_A_TIME, by_member, in_full_precision
from xconsensus.experiment.given import Given
from xconsensus.experiment.score_settings import similarity_of
from xconsensus.progress import counter
from xconsensus.scores.metrics import average_precision, without_spread
from xconsensus.scores.tables_of_members import Measured

TRAINING_MASKS = 200


def measure(given: Given) -> Measured:
    """Similarity, average precision and reliability of every explanation, some images at a time."""
    experiment, count = given.experiment, len(given.records)
    measured = Measured.nothing(count, len(experiment.members))
    title = f"score {experiment.explainer_name}"
    with counter(title, count, "images", experiment.config["progress"]) as progress:
        for first in range(0, count, IMAGES_AT_A_TIME):
            part = slice(first, first + IMAGES_AT_A_TIME)
            _compare(given, given.records[part], measured.of(part))
            progress.add(len(given.records[part]))
    return measured


def _compare(given: Given, records: list[Record], measured: Measured) -> None:
    """Fill in what is measured of some images, member by member, so that memory holds one's explanations at a time."""
    images, similarity = given.experiment.images, similarity_of(given.experiment)
    has_masks = given.experiment.dataset.has_masks
    pixels = [given.areas(record, images.mask(record)) for record in records] if has_masks else []
    ids = [record.image_id for record in records]
    agreed = [given.consensus.values(image_id) for image_id in ids]
    ends = list(accumulate(map(len, agreed), initial=0))
    flat = torch.cat(agreed)
    for column, shards in enumerate(by_member([*given.explanations, given.consensus], ids)):
        for row, positives_and_counts in enumerate(pixels):
            values = given.weighted(shards.stored(ids[row]).numpy())
            measured.average_precision[row, column] = average_precision(values, *positives_and_counts)
        if shards is given.consensus:
            break
        for place, explanations in in_full_precision(shards, ids):
            same = flat[ends[place.start] : ends[place.stop]].view(explanations.shape)
            found = similarity(explanations, same.to(explanations.dtype)).numpy()
            measured.similarity[place, column] = np.where(without_spread(explanations), np.nan, found)
        for row, image_id in enumerate(ids):
            for name in ("reliability", "samples", "predicted", "probability"):
                getattr(measured, name)[row, column] = shards.number(image_id, name)


def mean_training_mask(experiment: Experiment) -> NDArray[np.floating] | None:
    """The mean (size, size) of the masks of the first training images of each class, at most `TRAINING_MASKS` in all;
    None where the committee is not trained on the data set, or these have none.
    """
    if not experiment.config["committee"]["finetune"]:
        return None
    total, count = np.zeros((experiment.images.size,) * 2), 0
    for record in choose(experiment.inputs.records("train"), "first", TRAINING_MASKS, None, experiment.seed):
        with suppress(InputError):  # of some images there are none
            total, count = total + experiment.images.mask(record), count + 1
    return total / count if count else None


def objects_table(given: Given) -> pd.DataFrame:
    """objects.csv: the consensus's average precision for each category of objects that an image shows (Fig. 9)."""
    rows = []
    for record in given.records:
        agreed = given.weighted(given.consensus.stored(record.image_id).numpy())
        for category, mask in given.experiment.images.categories(record):
            rows.append((record.image_id, category, average_precision(agreed, *given.areas(record, mask))))
    return pd.DataFrame(rows, columns=["image_id", "category", "average_precision"])


def sizes_of(given: Given) -> pd.DataFrame:
    """Of each image how many objects it shows, and the share of its pixels that count which the explained one covers:
    image_id, objects, share.
    """
    images, rows = given.experiment.images, []
    for record in given.records:
        positives, counts = given.areas(record, images.mask(record))
        pixels = images.size**2 if counts is None else counts.sum()
        rows.append((record.image_id, len(images.objects(record)), positives.sum() / pixels))
    return pd.DataFrame(rows, columns=["image_id", "objects", "share"])
