"""score: compare each member's explanations with the consensus and the masks; relate the scores to accuracy."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from xconsensus.consensus import ballot_of
from xconsensus.datasets import mask_kind
from xconsensus.experiment.artefacts import way_of
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.experiment.explanations import IMAGES_AT_A_TIME, by_image
from xconsensus.experiment.given import Given, what_is_given
from xconsensus.experiment.measuring import mean_training_mask, measure, objects_table, sizes_of
from xconsensus.experiment.predicted import test_predictions
from xconsensus.experiment.score_settings import inputs_of, outdated, rules_of, similarity_of, tables_settings
from xconsensus.progress import log
from xconsensus.scores import committees
from xconsensus.scores.alignment import AREAS, CENTRE, TRAINING, baselines_table, centred, own_areas
from xconsensus.scores.estimation import estimation
from xconsensus.scores.measures import measures_table, of_predictions, scores_by_votes, votes_of_others
from xconsensus.scores.metrics import correlation, mean_over_images, without_spread
from xconsensus.scores.rules import rules_table
from xconsensus.scores.several import several_table, sizes_table
from xconsensus.scores.tables_of_members import (
    Measured,
    correlations_table,
    images_table,
    intervals_table,
    members_table,
    noise,
)
from xconsensus.store.files import read_csv, read_json, read_settings, write_csv, write_json, write_long_csv
from xconsensus.store.locks import claimed
from xconsensus.store.provenance import Settings, check_settings
from xconsensus.store.resume import is_made


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
    experiment = given.experiment
    names = [member.name for member in experiment.members]
    measured = measure(given)
    own, *ensemble = given.classified[0]
    families = [member.family for member in experiment.members]
    everybody = pd.DataFrame({"member": names, "family": families, "accuracy": own})
    everybody["input_size"] = [member.input_size for member in experiment.members]
    if any(ways := [way_of(experiment, member) for member in experiment.members]):
        everybody["prepared"] = ways
    everybody["explained_right"] = mean_over_images(given.right)
    members = members_table(everybody, (ensemble[0], ensemble[1]), measured, given.intervals)
    hidden = set(names).difference(experiment.shown_members)
    members = members[~members["member"].isin(hidden)]
    parts = (slice(first, first + IMAGES_AT_A_TIME) for first in range(0, len(given.records), IMAGES_AT_A_TIME))
    ids, labels = given.ids, [record.label for record in given.records]
    images = (given.marked(images_table(ids[part], labels[part], names, measured.of(part))) for part in parts)
    write_long_csv(path.with_name("images.csv"), images)
    if hasattr(experiment.dataset, "instances"):
        write_csv(path.with_name("objects.csv"), objects_table(given))
    correlations = correlations_table(members, experiment.config["score"]["level"])
    write_csv(path.with_name("correlations.csv"), given.marked(correlations))
    write_csv(path, given.marked(members), settings)
    _say_what_is_left_out(given, measured, members)


def _say_what_is_left_out(given: Given, measured: Measured, members: pd.DataFrame) -> None:
    """Lines on images and explanations that scores leave out, and on what sampling noise does to the others."""
    experiment, names = given.experiment, [member.name for member in given.experiment.members]
    if left_out := len(given.explained) - len(given.records):
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
    if kind := mask_kind(experiment.dataset):
        whole = sum(bool(experiment.images.mask(record).all()) for record in given.records)
        log.info(f"masks are {kind}, {whole} of {len(given.records)} the whole explained image, where any map has AP 1")
    if np.isfinite(measured.reliability).any() and (line := noise(members, measured.reliability)):
        log.info(f"{experiment.explainer_name}: {line}")


def make_intervals(given: Given, path: Path, settings: Settings) -> None:
    """Write intervals.csv: what of r members and images decide."""
    members, images = (read_csv(path.with_name(f"{name}.csv")) for name in ("members", "images"))
    write_csv(path, given.marked(intervals_table(members, images, given.intervals)), settings)


def make_several(given: Given, path: Path, settings: Settings) -> None:
    """Write several_images.csv, and last several.csv, from the average precisions in images.csv (5.1)."""
    images = read_csv(path.with_name("images.csv"), ["image_id", "member", "average_precision"])
    sizes = sizes_table(sizes_of(given), images, settings["scored"])
    write_csv(path.with_name("several_images.csv"), sizes)
    write_csv(path, several_table(sizes, given.intervals), settings)


# --- other committees ---


def make_growing(given: Given, path: Path, settings: Settings) -> None:
    """Write growing.csv: the consensus's mAP for random committees of every size (Fig. 8)."""
    members, ballot = len(given.explanations), ballot_of(given.experiment.explainer["vote"])
    images = (
        (ballot(values).numpy(), *given.areas(record, given.experiment.images.mask(record)))
        for record, values in zip(given.records, by_image(given.explanations, given.ids), strict=True)
    )
    seed, trials, sizes = given.experiment.seed, settings["trials"], range(1, members + 1)
    found = committees.growing_committees(images, members, sizes, trials, seed, given.weighted)
    write_csv(path, given.marked(found), settings)


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
    write_csv(path, given.marked(table), settings)


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


def make_measures(given: Given, path: Path, settings: Settings) -> None:
    """Write measures.csv: members' scores by the votes of others, and what their predictions alone say of them."""
    experiment, ballot = given.experiment, ballot_of(given.experiment.explainer["vote"])
    votes = votes_of_others([member.family for member in experiment.members])
    images = ((values, ballot(values)) for values in by_image(given.explanations, given.ids))
    found = scores_by_votes(images, votes, similarity_of(experiment))
    predicted = of_predictions(lambda: (probabilities for probabilities, _ in test_predictions(experiment)))
    write_csv(path, measures_table([member.name for member in experiment.members], found, predicted), settings)


def make_rules(given: Given, path: Path, settings: Settings) -> None:
    """Write rules.csv: scores and average precision by other votes and similarities, from the same explanations."""
    experiment, has_masks = given.experiment, given.experiment.dataset.has_masks
    images = (
        (values, given.areas(record, experiment.images.mask(record)) if has_masks else None)
        for record, values in zip(given.records, by_image(given.explanations, given.ids), strict=True)
    )
    names = [member.name for member in experiment.members]
    write_csv(path, given.marked(rules_table(images, names, rules_of(experiment), given.weighted)), settings)


def make_baselines(given: Given, path: Path, settings: Settings) -> None:
    """Write baselines.csv: average precision of consensus and members beside that of maps that no network made."""
    images, size = given.experiment.images, given.experiment.images.size
    fixed = {CENTRE: centred(size)}
    if (mean := mean_training_mask(given.experiment)) is not None:
        fixed[TRAINING] = mean

    def maps() -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, NDArray[np.floating]]]]:
        for record in given.records:
            mask, void = images.mask(record), images.void(record)
            labels = given.labels.values(record.image_id).numpy().reshape(size, size) if given.labels else None
            own = {} if labels is None else {AREAS: own_areas(labels)}
            yield mask, np.ones_like(mask) if void is None else ~void, {**fixed, **own}

    table = baselines_table(maps(), read_csv(path.with_name("members.csv")))
    write_csv(path, given.marked(table), settings)


def make_pairs(given: Given, path: Path, settings: Settings) -> None:
    """Write pairs.csv: the mean similarity of each member's explanations to each other's."""
    names, similarity = [member.name for member in given.experiment.members], similarity_of(given.experiment)
    found = []
    for values in by_image(given.explanations, given.ids):
        blank = without_spread(values)
        found.append(np.where(blank | blank[:, None], np.nan, similarity.of_pairs(values.double()).numpy()))
    means = mean_over_images(np.stack(found))
    table = pd.DataFrame({"member": np.repeat(names, len(names)), "other": names * len(names)})
    write_csv(path, table.assign(similarity=means.ravel()), settings)


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
    "intervals": make_intervals,
    "several": make_several,
    "baselines": make_baselines,
    "estimation": make_estimation,
    "measures": make_measures,
    "rules": make_rules,
    "pairs": make_pairs,
}
