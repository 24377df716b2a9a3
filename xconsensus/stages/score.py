"""score: compare each member's explanations with the consensus and the masks; relate the scores to accuracy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from xconsensus.consensus import ballot_of
from xconsensus.datasets import Record
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import (
    chosen_by,
    explained_images,
    label_maps,
    needs,
    predictions,
    segmenter_settings,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.experiment.explanations import (
    IMAGES_AT_A_TIME,
    by_image,
    by_member,
    complete_consensus,
    complete_explanations,
    explained_right,
    in_full_precision,
    without_missing,
)
from xconsensus.experiment.score_settings import inputs_of, outdated, similarity_of, tables_settings
from xconsensus.progress import counter, log
from xconsensus.scores import committees
from xconsensus.scores.accuracy import ensemble_accuracy
from xconsensus.scores.estimation import estimation
from xconsensus.scores.metrics import (
    AP_WEIGHTS,
    Intervals,
    areas,
    average_precision,
    correlation,
    mean_over_images,
    without_spread,
)
from xconsensus.scores.tables_of_members import (
    Measured,
    correlations_table,
    images_table,
    members_table,
    noise,
)
from xconsensus.store.files import read_csv, read_json, read_settings, write_csv, write_json, write_long_csv
from xconsensus.store.locks import claimed
from xconsensus.store.provenance import Settings, check_settings
from xconsensus.store.resume import is_made
from xconsensus.store.shards import Shards


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    score(start(config))


def score(experiment: Experiment) -> None:
    """Write the tables of scores, where they are missing or what they are made from has changed."""
    given = what_is_given(experiment)
    experiment, folder = given.experiment, given.folder
    settings = tables_settings(experiment, given.consensus, len(given.explained))
    inputs = inputs_of(experiment, given.explained)
    members = len(experiment.members)
    if experiment.config["dry_run"]:
        _missing(given, settings)
        images = len(given.records)
        log.info(f"score would compare {members} members with the consensus on {images} images, into {folder}")
        return
    for _ in claimed(experiment.store.root, [(folder / "members.csv", None)]):
        missing = _missing(given, settings)
        if outdated(given.experiment, folder, inputs, given.explained):
            missing = list(settings)
        for table in missing:
            MAKERS[table](given, folder / f"{table}.csv", settings[table])
        if missing or read_json(folder / "inputs.json") != inputs:
            write_json(folder / "inputs.json", inputs)
    name, images = experiment.explainer_name, len(given.records)
    log.info(f"{name}: scores of {members} members on {images} images in {folder}")


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
            for probabilities, labels in _by_image(self.experiment):
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


def _missing(given: Given, settings: dict[str, Settings]) -> list[str]:
    """The tables that are still to be made; SettingsError naming one of other settings, without overwrite=true."""

    def check(path: Path, wanted: Settings) -> None:
        check_settings(path, read_settings(path), wanted)

    paths = {table: given.folder / f"{table}.csv" for table in settings}
    overwrite = given.experiment.config["overwrite"]
    return [
        table for table, path in paths.items() if not is_made(path, partial(check, path, settings[table]), overwrite)
    ]


# --- the members' scores ---


def make_members(given: Given, path: Path, settings: Settings) -> None:
    """Write images.csv, objects.csv (of data sets with several objects), correlations.csv, and last members.csv."""
    experiment, ids = given.experiment, given.ids
    names = [member.name for member in experiment.members]
    measured = measure(given)
    own, *ensemble = given.classified[0]
    families = [member.family for member in experiment.members]
    everybody = pd.DataFrame({"member": names, "family": families, "accuracy": own})
    everybody["input_size"] = [member.input_size for member in experiment.members]
    everybody["explained_right"] = mean_over_images(given.right)
    members = members_table(everybody, (ensemble[0], ensemble[1]), measured, given.intervals)
    hidden = set(names).difference(experiment.shown_members)
    members = members[~members["member"].isin(hidden)]
    parts = (slice(first, first + IMAGES_AT_A_TIME) for first in range(0, len(ids), IMAGES_AT_A_TIME))
    write_long_csv(path.with_name("images.csv"), (images_table(ids[p], names, measured.of(p)) for p in parts))
    if hasattr(experiment.dataset, "instances"):
        write_csv(path.with_name("objects.csv"), objects_table(given))
    write_csv(path.with_name("correlations.csv"), correlations_table(members, experiment.config["score"]["level"]))
    write_csv(path, members, settings)
    if left_out := len(given.explained) - len(ids):
        log.info(
            f"{experiment.explainer_name}: {left_out} of {len(given.explained)} images left out of the scores: right by"
            f" every member, but on the explained crop another class is predicted, and explained, by {given.whose}"
        )
    if (blank := np.isnan(measured.similarity)).any():
        whose = ", ".join(np.array(names)[blank.any(axis=0)])
        log.info(
            f"{experiment.explainer_name}: {blank.sum()} explanations of {blank.any(axis=1).sum()} images left out of"
            f" the consensus scores: one value everywhere, by one superpixel or outputs that nothing changes ({whose})"
        )
    if experiment.dataset.has_masks and (outside := int(np.isnan(measured.average_precision[:, -1]).sum())):
        log.info(f"{outside} images left out of mAP: their object lies outside the centre crop")
    if np.isfinite(measured.reliability).any():
        log.info(f"{experiment.explainer_name}: {noise(members, measured.reliability)}")


def _by_image(experiment: Experiment) -> Iterator[tuple[Tensor, Tensor]]:
    """Each member's probabilities and labels, of the same images in the same order.

    Raises MissingStageError naming an image that only some members predict.
    """
    first: list[str] = []
    for member in experiment.members:
        ids, probabilities, labels = predictions(experiment, "test", with_trained_weights(experiment, member))
        first = first or ids
        if unlike := sorted({*first} ^ {*ids}):
            whose = f"members {experiment.members[0].name} and {member.name}"
            raise needs("finetune", f"only one of {whose} has predicted test image {unlike[0]}", "overwrite=true")
        place = {image_id: row for row, image_id in enumerate(ids)}
        rows = [place[image_id] for image_id in first] if ids != first else slice(None)
        yield probabilities[rows], labels[rows]


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
            measured.reliability[row, column] = shards.number(image_id, "reliability")
            measured.samples[row, column] = shards.number(image_id, "samples")


def objects_table(given: Given) -> pd.DataFrame:
    """objects.csv: the consensus's average precision for each category of objects that an image shows (Fig. 9)."""
    rows = []
    for record in given.records:
        agreed = given.weighted(given.consensus.stored(record.image_id).numpy())
        for category, mask in given.experiment.images.categories(record):
            rows.append((record.image_id, category, average_precision(agreed, *given.areas(record, mask))))
    return pd.DataFrame(rows, columns=["image_id", "category", "average_precision"])


# --- other committees ---


def make_growing(given: Given, path: Path, settings: Settings) -> None:
    """Write growing.csv: the consensus's mAP for random committees of every size (Fig. 8)."""
    members, ballot = len(given.explanations), ballot_of(given.experiment.explainer["vote"])
    images = (
        (ballot(values).numpy(), *given.areas(record, given.experiment.images.mask(record)))
        for record, values in zip(given.records, by_image(given.explanations, given.ids), strict=True)
    )
    seed, trials, sizes = given.experiment.seed, settings["trials"], range(1, members + 1)
    write_csv(path, committees.growing_committees(images, members, sizes, trials, seed, given.weighted), settings)


def make_diluted(given: Given, path: Path, settings: Settings) -> None:
    """Write diluted.csv: what more and more voters of random weights do to consensus and scores (5.1)."""
    experiment, own, random = given.experiment, given.places(), given.places(random=True)
    ballot, has_masks = ballot_of(experiment.explainer["vote"]), experiment.dataset.has_masks
    drawn = committees.diluted_committees(own, random, settings["shares"], settings["trials"], experiment.seed)
    voting = [voters for _, voters in drawn]
    images = (
        (ballot(values).numpy(), *(given.areas(r, experiment.images.mask(r)) if has_masks else (None, None)))
        for r, values in zip(given.records, by_image(given.explanations, given.ids), strict=True)
    )
    consensus = committees.dilution(images, random, voting, given.weighted)
    scores = mean_over_images(_scores(given, [*range(len(given.explanations))], voting))
    accuracy = np.array(given.classified[0][0])[own]
    counts = [(trial, int(np.isin(voters, own).sum()), int(np.isin(voters, random).sum())) for trial, voters in drawn]
    table = pd.DataFrame(counts, columns=["trial", "trained", "random"])
    table.insert(0, "share", table["random"] / (table["trained"] + table["random"]))
    table = pd.concat([table, consensus], axis=1)
    table["consensus_score"], table["random_score"] = scores[:, own].mean(1), np.nanmean(scores[:, random], axis=1)
    found = [correlation(accuracy, score) for score in scores[:, own]]
    table["pearson_r"], table["spearman_r"] = [r.pearson_r for r in found], [r.spearman_r for r in found]
    write_csv(path, table, settings)


def make_estimation(given: Given, path: Path, settings: Settings) -> None:
    """Write estimation.csv: accuracies of members left out, from scores, agreement or few labels (5.2)."""
    table = read_csv(path.with_name("members.csv")).set_index("member", drop=False)
    _, predicted, labels = given.classified
    names = [member.name for member in given.experiment.members]
    others = predicted[given.places()]  # members of random weights agree with nobody, and are easily told
    shown = [name for name in names if name in settings["members"]]
    found = estimation(table.loc[shown], predicted[[names.index(name) for name in shown]], others, labels, settings)
    if left := [count for count in settings["labelled"] if count > (labels >= 0).sum()]:
        log.info(f"score.labelled: without {left}, of {(labels >= 0).sum()} labelled test images")
    write_csv(path, found, settings)


def make_random(given: Given, path: Path, settings: Settings) -> None:
    """Write random.csv: the family's scores under random committees beside those under the complete one (4.5.2)."""
    own, members = _family(given, settings), len(given.explanations)
    extras, trials = settings["extras"], settings["trials"]
    drawn = committees.random_committees(members, own, (extras[0], extras[1]), trials, given.experiment.seed)
    scores = mean_over_images(_scores(given, own, [np.arange(members), *drawn]))
    write_csv(path, committees.agreement(scores[1:], scores[0], drawn), settings)


def make_family(given: Given, path: Path, settings: Settings) -> None:
    """Write family.csv: the family's scores by its own vote and by everybody's (Fig. 7)."""
    own, wanted = _family(given, settings), given.experiment.config["plot"]["family"]
    if isinstance(wanted, list) and (absent := [name for name in wanted if name not in settings["family"]]):
        log.info(f"plot.family: without {', '.join(absent)}, which the committee does not have here, or does not show")
    scores = _scores(given, own, [np.asarray(own), np.arange(len(given.explanations))])
    votes = {"the family's vote": scores[:, 0], "everybody's vote": scores[:, 1]}
    write_csv(path, committees.family_scores(settings["family"], votes, given.intervals), settings)


def _family(given: Given, settings: Settings) -> list[int]:
    names = [member.name for member in given.experiment.members]
    return [names.index(name) for name in settings["family"]]


def _scores(given: Given, own: list[int], voting: list[committees.Committee]) -> NDArray[np.floating]:
    """Similarities (images, committees, f) of the family's explanations to the consensus of each committee."""
    ballot = ballot_of(given.experiment.explainer["vote"])

    def images() -> Iterator[tuple[Tensor, Tensor]]:
        for values in by_image(given.explanations, given.ids):
            yield values[own], ballot(values)

    return committees.committee_scores(images(), voting, similarity_of(given.experiment))


MAKERS: dict[str, Callable[[Given, Path, Settings], None]] = {
    "growing": make_growing,
    "random": make_random,
    "family": make_family,
    "diluted": make_diluted,
    "members": make_members,
    "estimation": make_estimation,
}
