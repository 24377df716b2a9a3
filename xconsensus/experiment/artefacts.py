"""Which settings shape which artefact, and the artefacts of an experiment as its stages read them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from xconsensus import datasets, own_code
from xconsensus.datasets import Record
from xconsensus.errors import InputError, MissingStageError
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.rules import rules_of_predictions
from xconsensus.explainers import own_settings
from xconsensus.members.member import Member
from xconsensus.members.preprocessing import rule_of_predictions, rule_of_training
from xconsensus.members.training import Recipe
from xconsensus.progress import log
from xconsensus.store.files import read_csv, read_settings
from xconsensus.store.provenance import Settings, check_settings
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_whole, verify


def needs(stage: str, lack: str, and_with: str = "") -> MissingStageError:
    """The error of a lack that an earlier stage would fill, with the same settings ``and_with`` others."""
    settings = f"the same settings{and_with and ' and ' + and_with}"
    return MissingStageError(f"{lack}: run xconsensus {stage} with {settings} first")


def digest(settings: Mapping[str, Any]) -> str:
    """A short fingerprint of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def image_settings(experiment: Experiment) -> dict[str, Any]:
    """What shapes an image's pixels."""
    return datasets.image_settings(experiment.dataset, experiment.config["dataset"])


# --- members ---


def weights_settings(experiment: Experiment, member: Member, recipe: Recipe, training_images: int) -> dict[str, Any]:
    """What shapes the weights that a member is trained to."""
    return {
        "dataset": image_settings(experiment),
        "training_images": training_images,
        "classes": len(experiment.dataset.classes),
        "member": member.settings(),
        "finetune": recipe.settings(),
        "seed": experiment.seed,
        **rule_of_training(member),
    }


def with_trained_weights(experiment: Experiment, member: Member, read: bool = True) -> Member:
    """The member with the weights it is explained with: those it was trained to, or its own.

    Trained ones are read whole, once a process, unless told not to. Raises MissingStageError when there are none yet,
    DamagedError when they are not as they were written.
    """
    if not experiment.config["committee"]["finetune"]:
        return member
    path = experiment.store.weights(member.name)
    if not path.is_file():
        raise needs("finetune", f"member {member.name} is not trained yet")
    if read:
        stat = path.stat()
        _verify_once(path, stat.st_mtime_ns, stat.st_size)
    return replace(member, weights=str(path), weights_key=None, pretrained=False)


@cache
def _verify_once(path: Path, _modified: int, _size: int) -> None:
    verify(path)


def prediction_settings(experiment: Experiment, member: Member, records: Sequence[Record]) -> dict[str, Any]:
    """What shapes a member's predictions on some images."""
    ids = "\n".join(record.image_id for record in records)
    return {
        "dataset": image_settings(experiment),
        "member": member.settings(),
        "images": len(records),
        "image_ids": hashlib.sha256(ids.encode()).hexdigest()[:16],
        **rule_of_predictions(member),
    }


def predictions(experiment: Experiment, split: str, member: Member) -> tuple[list[str], Tensor, Tensor]:
    """Image ids, probabilities (n, classes) and labels (n,) of a member; InputError when missing or outdated."""
    path = experiment.store.predictions(split, member.name)
    if not path.is_file():
        raise needs("finetune", f"{path} does not exist")
    tensors, header = read_whole(path, "probabilities", "labels")
    check_predictions(experiment, member, path, header["settings"])
    check_rule(experiment, member, split, header)
    return header.get("ids", []), tensors["probabilities"], tensors["labels"]


def check_predictions(experiment: Experiment, member: Member, path: Path, made: Settings) -> None:
    """SettingsError where predictions at ``path`` are of another member or other images, whatever the split's size."""
    check_settings(path, made.get("member", {}), member.settings())
    check_settings(path, made.get("dataset", {}), image_settings(experiment))


def check_rule(experiment: Experiment, member: Member, split: str, header: Mapping[str, Any]) -> None:
    """SettingsError where predictions with this header were made from other pixels than the member sees now."""
    path, made, now = experiment.store.predictions(split, member.name), header["settings"], rule_of_predictions(member)
    if "rule" in made:
        check_settings(path, {key: made[key] for key in ("rule", "crop_mode") if key in made}, now)
        return
    ids = set(header.get("ids", []))
    records = (record for record in experiment.dataset.records(split) if record.image_id in ids or not ids)
    rules_of_predictions(experiment, member, records).check_pixels(path)


def members_with_predictions(experiment: Experiment) -> list[Member]:
    """The members, with weights, that have predictions of the explained split.

    Raises MissingStageError when some lack them, unless ``committee.allow_missing`` lets the others do.
    """
    found = []
    for member in experiment.members:
        try:
            trained = with_trained_weights(experiment, member)
            path = experiment.store.predictions(experiment.explain_split, member.name)
            if not path.is_file():
                raise needs("finetune", f"{path} does not exist")
            found.append(trained)
        except MissingStageError as error:
            if not experiment.config["committee"]["allow_missing"]:
                raise
            log.info(f"without {member.name}: {error}")
    if not found:
        raise needs("finetune", "no member has predictions")
    return found


# --- images ---


def explained_images(experiment: Experiment) -> list[Record]:
    """The images the committee explains, as the explain stage wrote them."""
    path = experiment.store.images(experiment.committee)
    if not path.is_file():
        raise needs("explain", f"{path} does not exist")
    read_settings(path)  # raises where the table is not as it was written
    columns = ["image_id", "label", "path"]
    table = read_csv(path, columns)
    try:
        return [Record(str(i), int(label), str(p or "")) for i, label, p in table[columns].values]
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: a label is no whole number; remove it and run xconsensus explain") from error


def segmenter_settings(experiment: Experiment) -> dict[str, Any]:
    """The segmenter, for explainers on superpixels; empty for those on pixels."""
    segmenter = experiment.explainer.get("segmenter")
    return {"segmenter": segmenter} if segmenter else {}


def label_maps(experiment: Experiment) -> Shards:
    """The images' superpixels by the explainer's segmenter, a label map (size * size,) each."""
    segmenter = experiment.explainer["segmenter"]
    settings = {"dataset": image_settings(experiment), "segmenter": segmenter}
    return Shards(experiment.store.superpixels(segmenter["name"]), settings)


# --- explanations ---


def explanation_settings(experiment: Experiment, member: Member) -> dict[str, Any]:
    """What shapes one explanation of a member with weights."""
    settings = own_settings(experiment.explainer)
    method = {"method": own_code.settled(experiment.explainer["method"])}
    return {
        "dataset": image_settings(experiment),
        "member": member.settings(),
        "explainer": settings | method | segmenter_settings(experiment),
        "precision": experiment.config["explain"]["precision"],
        "seed": experiment.seed,
    }


def explanations_of(experiment: Experiment, member: Member) -> Shards:
    """The explanations of a member with weights by the experiment's explainer."""
    folder = experiment.store.explanations(experiment.explainer_name, member.name)
    packed = not segmenter_settings(experiment)
    return Shards(folder, explanation_settings(experiment, member), packed=packed)


def consensus_of(experiment: Experiment, read: bool = True) -> Shards:
    """The committee's consensus; its settings name every member's explanations. ``read`` as `with_trained_weights`."""
    members = [with_trained_weights(experiment, member, read) for member in experiment.members]
    settings = {
        "vote": own_code.settled(experiment.explainer["vote"]),
        "explanations": {member.name: digest(explanation_settings(experiment, member)) for member in members},
    }
    return Shards(experiment.store.consensus(experiment.committee, experiment.explainer_name), settings)
