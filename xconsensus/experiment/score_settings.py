"""Which settings shape the tables of scores, and what else decides whether they are made anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64

from xconsensus import datasets
from xconsensus.consensus import SIMILARITIES, Similarity
from xconsensus.datasets import Record
from xconsensus.errors import InputError, nearest
from xconsensus.experiment.artefacts import (
    check_predictions,
    chosen_by,
    consensus_of,
    contents_explained,
    explanations_of,
    needs,
    segmenter_settings,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.explanations import explained_right, present_explanations
from xconsensus.members.catalogue import entries, specifications
from xconsensus.members.member import Member
from xconsensus.scores.committees import extras_of, family_of
from xconsensus.scores.estimation import FEWEST
from xconsensus.scores.metrics import without_spread
from xconsensus.scores.rules import Rule, rule_by_name
from xconsensus.store.files import read_csv, read_json, read_settings
from xconsensus.store.provenance import Settings, as_json, difference, digest
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensor

# tables that scores of earlier versions lack, and hold without
LATER = ("intervals", "several", "estimation", "measures", "rules", "pairs", "baselines")


def _rules(experiment: Experiment) -> dict[str, str]:
    """What scores make of explanations of one value everywhere, and of images of which a member explains another class
    than the label. By the rules of before, of which scores say nothing, both were counted like others.
    """
    return {"without_spread": "left out", "other_class": "left out" if chosen_by(experiment) == "all" else "counted"}


def similarity_of(experiment: Experiment) -> Similarity:
    """The similarity that the explainer's group of the config names; InputError when it cannot."""
    name, sigma = experiment.explainer["similarity"], experiment.explainer.get("sigma")
    if name not in SIMILARITIES:
        raise InputError(f"explainer.similarity={name} is unknown{nearest(name, SIMILARITIES)}")
    if not Similarity(name).has_sigma:
        return Similarity(name)
    if not sigma or sigma <= 0:
        raise InputError(f"explainer.sigma={sigma}: the similarity {name} needs a positive number")
    return Similarity(name, sigma)


def rules_of(experiment: Experiment) -> list[Rule]:
    """The explainer's own rule, and those of ``score.rules`` that are others; InputError for one that is none."""
    own = Rule(experiment.explainer["vote"], similarity_of(experiment))
    return list(dict.fromkeys([own, *map(rule_by_name, experiment.config["score"]["rules"] or [])]))


def tables_settings(experiment: Experiment, consensus: Shards, images: int) -> dict[str, Settings]:
    """Table that this experiment has -> the settings that shape it: members and, where they can be, the tables of
    other committees (growing, random, family, diluted), of images of several objects, and of estimated accuracies.
    """
    options, all_of_score = experiment.config["plot"], experiment.config["score"]
    score = {key: all_of_score[key] for key in ("bootstrap", "level")}
    # stands there only where it differs from what was always done: earlier scores hold
    weights = {} if (ap_weights := all_of_score["ap_weights"]) == "signed" else {"ap_weights": ap_weights}
    of_all = {"consensus": digest(dict(consensus.settings)), "images": images, "seed": experiment.seed}
    similarity = {"similarity": vars(similarity_of(experiment))}
    found: dict[str, Settings] = {}
    if segmenter_settings(experiment) and experiment.dataset.has_masks:  # on maps of pixels it would take minutes
        found["growing"] = {**of_all, "trials": options["trials"], **weights}
    members = len(experiment.members)
    own = [experiment.members[position].name for position in family_positions(experiment)]
    if 3 < len(own) < members:  # correlations need four
        extras = list(extras_of(options["extras"], members, len(own)))
        found["random"] = {**of_all, **similarity, "family": own, "extras": extras, "trials": options["trials"]}
    if 1 < len(own) < members:
        found["family"] = {**of_all, **similarity, "family": own, "score": score}
    if (trained := experiment.trained_members) and len(trained) < members:
        shares = [float(share) for share in all_of_score["shares"]]
        found["diluted"] = {**of_all, **similarity, "shares": shares, "trials": options["trials"], **weights}
    scored = {"score": {**score, **weights}, "scored": experiment.shown_members}
    found["members"] = {**of_all, **similarity, **scored}
    if members > 1:
        found["measures"] = {**of_all, **similarity}
        found["pairs"] = {**of_all, **similarity}
    if len(rules := rules_of(experiment)) > 1:
        found["rules"] = {**of_all, **weights, "rules": [rule.name for rule in rules]}
    # after the members' tables, of which these are made
    if len(experiment.shown_members) > 3:  # r has no interval of three
        found["intervals"] = {**of_all, **similarity, **scored}
    if experiment.dataset.has_masks:
        found["baselines"] = {**of_all, **scored}
    if hasattr(experiment.dataset, "instances"):
        found["several"] = {**of_all, **scored}
    shown = [member.name for member in trained if member.name in experiment.shown_members]
    if len(shown) > FEWEST:
        labelled = {key: all_of_score[key] for key in ("labelled", "draws")}
        found["estimation"] = {**of_all, **similarity, **labelled, "members": shown}
    return found


def family_positions(experiment: Experiment) -> list[int]:
    """Positions of the members of ``plot.family`` that are shown.

    A list may name members that the committee's config has or the paper knows, and that do not take part here.
    """
    shown, wanted = experiment.shown_members, experiment.config["plot"]["family"]
    every = enumerate(experiment.members)
    places = [place for place, member in every if member.name in shown and not member.random]
    shown = [experiment.members[place].name for place in places]
    if isinstance(wanted, list):
        elsewhere = {*entries(), *specifications(experiment.config["committee"])}
        wanted = [name for name in wanted if name in shown or name not in elsewhere]
    found = family_of([experiment.members[place].family for place in places], shown, wanted) if places else []
    return [places[position] for position in found]


def inputs_of(experiment: Experiment, records: Sequence[Record]) -> dict[str, Any]:
    """What scores are made from besides explanations: masks, by their keys and contents, and predictions, by checksum.

    Raises InputError for a mask that cannot be read, and predictions that are missing or outdated.
    """
    masks = datasets.mask_settings(experiment.dataset, experiment.config["dataset"])
    return {
        "images": _digest(contents_explained(experiment).of(record.image_id for record in records)),
        "masks": {**masks, "contents": _contents_of_masks(experiment, records)},
        "predictions": {member.name: _checksum_of_predictions(experiment, member) for member in experiment.members},
        **_rules(experiment),
    }


def outdated(experiment: Experiment, folder: Path, inputs: Mapping[str, Any], records: Sequence[Record]) -> str | None:
    """How scores in ``folder`` of ``records`` differ in what they were made from, or in a rule that tells; None where
    they do not.

    Scores of before have no note of what images held: it was what these held at the first look. Nor do they say what
    they made of explanations without spread, and of another class than the label: they hold where there are none.
    """
    try:
        made = read_json(folder / "inputs.json")
    except InputError:  # there is none, as of scores of earlier versions, or it is damaged
        made = {}
    then = contents_explained(experiment).then
    rules = _rules(experiment)
    known = {**rules, "images": _digest("".join(then[record.image_id] for record in records)), **made}
    found = difference(known, inputs)
    if not found and "without_spread" not in made and (image := _counted_without_spread(experiment, folder)):
        return f"explanations of one value everywhere are left out now, as of image {image}"
    if not found and "other_class" not in made and (image := _counted_of_other_class(experiment, records)):
        return f"images of which a member explains another class than the label are left out now, as {image}"
    return found


def check_scores(
    experiment: Experiment, folder: Path, wanted: Mapping[str, Settings], records: Sequence[Record]
) -> None:
    """MissingStageError unless tables in ``folder`` have the ``wanted`` settings, the present masks and predictions.

    SettingsError naming what explanations or the consensus on disk were made with other than now, DamagedError when a
    table has changed since it was written.
    """
    ids = [record.image_id for record in records]
    for shards in (*present_explanations(experiment), consensus_of(experiment)):
        shards.missing(ids)  # looks at settings: tables know these by a digest of all
    for table, settings in wanted.items():
        path = folder / f"{table}.csv"
        if not path.is_file() and table in LATER:
            continue
        if not path.is_file():
            raise needs("score", f"{path} does not exist")
        if found := difference(read_settings(path), as_json(settings)):
            raise needs("score", f"{path} was made with other settings ({found})", "overwrite=true")
    if found := outdated(experiment, folder, inputs_of(experiment, records), records):
        raise needs("score", f"{folder} has scores of other images, masks or predictions ({found})")


def _counted_without_spread(experiment: Experiment, folder: Path) -> str | None:
    """An image of images.csv with a similarity of an explanation without spread; these have no reliability, or are
    similar to nothing.
    """
    path = folder / "images.csv"
    if not path.is_file():
        return None
    table = read_csv(path)
    doubtful = table[np.isfinite(table["similarity"]) & ((table["similarity"] == 0) | (table["reliability"] == 0))]
    for member in experiment.members:
        ids = [str(image_id) for image_id in doubtful["image_id"][doubtful["member"] == member.name]]
        for place, values in explanations_of(experiment, with_trained_weights(experiment, member)).blocks(ids, 8):
            if (blank := without_spread(values)).any():
                return ids[place][int(blank.argmax())]
    return None


def _counted_of_other_class(experiment: Experiment, records: Sequence[Record]) -> str | None:
    """An image that scores leave out now, and by whom; of members whose explanations are all there."""
    if chosen_by(experiment) != "all":
        return None
    ids = [record.image_id for record in records]
    for shards in present_explanations(experiment):
        if not shards.missing(ids) and (others := np.flatnonzero(explained_right([shards], records)[:, 0] == 0)).size:
            return f"{ids[others[0]]} by {shards.folder.name}"
    return None


def _contents_of_masks(experiment: Experiment, records: Sequence[Record]) -> str | None:
    """A fingerprint of the masks of the explained images, and of their objects' masks; None without masks."""
    if not experiment.dataset.has_masks:
        return None
    state = xxh3_64()
    for record in records:
        try:
            state.update(np.packbits(experiment.images.mask(record)).tobytes())
        except InputError as error:
            table = experiment.store.images(experiment.committee)
            raise InputError(
                f"{error}; it was there when images were chosen: put it back, or remove {table} and run xconsensus"
                " explain with on_bad_image=skip"
            ) from error
        if (void := experiment.images.void(record)) is not None:
            state.update(np.packbits(void).tobytes())
        for category, mask in experiment.images.objects(record):
            state.update(category.encode() + np.packbits(mask).tobytes())
    experiment.images.say_inverted(records)
    return state.hexdigest()


def _checksum_of_predictions(experiment: Experiment, member: Member) -> str:
    """The checksum of a member's test predictions, whose header alone is read."""
    path = experiment.store.predictions("test", member.name)
    if not path.is_file():
        raise needs("finetune", f"{path} does not exist")
    header = read_header(path)
    check_predictions(experiment, with_trained_weights(experiment, member), "test", header, read_tensor(path, "labels"))
    return str(header["checksum"])


def _digest(text: str) -> str:
    return xxh3_64(text.encode()).hexdigest()
