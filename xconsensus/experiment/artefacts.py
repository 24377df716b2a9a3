"""Which settings shape which artefact, and the artefacts of an experiment as its stages read them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from xconsensus import datasets, own_code
from xconsensus.datasets import Record
from xconsensus.errors import ContentsError, InputError, MissingStageError, SettingsError
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.rules import check_rule
from xconsensus.explainers import own_settings
from xconsensus.members.member import Member
from xconsensus.members.preprocessing import rule_of_predictions, rule_of_training
from xconsensus.members.training import Recipe
from xconsensus.progress import log
from xconsensus.store.contents import Contents
from xconsensus.store.files import read_csv, read_settings
from xconsensus.store.provenance import check_settings, digest
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_whole, verify


def needs(stage: str, lack: str, and_with: str = "") -> MissingStageError:
    """The error of a lack that an earlier stage would fill, with the same settings ``and_with`` others."""
    settings = f"the same settings{and_with and ' and ' + and_with}"
    return MissingStageError(f"{lack}: run xconsensus {stage} with {settings} first")


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
        **({"folded": True} if recipe.prepare and member.folded else {}),
        **rule_of_training(member),
    }


def training_note(experiment: Experiment) -> dict[str, Any]:
    """The note in weights of the images that they are trained on and what these hold, labels included."""
    ids = [record.image_id for record in experiment.inputs.records("train")]
    return {"ids": ids, "contents": experiment.inputs.contents("train", labels=True).of(ids)}


def check_training(experiment: Experiment, path: Path, header: Mapping[str, Any]) -> None:
    """ContentsError where images that weights at ``path`` were trained on hold something else now, or other labels."""
    note = header.get("training") or {"ids": [record.image_id for record in experiment.inputs.records("train")]}
    check_contents(experiment.inputs.contents("train", labels=True), path, note["ids"], note)


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


def way_of(experiment: Experiment, member: Member) -> str:
    """How a member's network was prepared for its training; empty where it was not, or not trained."""
    trained = experiment.config["committee"]["finetune"]
    return str(read_header(experiment.store.weights(member.name)).get("way", "")) if trained else ""


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
    check_predictions(experiment, member, split, header, tensors["labels"])
    return header.get("ids", []), tensors["probabilities"], tensors["labels"]


def right_note(experiment: Experiment, member: Member) -> str | None:
    """The note in a member's predictions of which images of the explained split it is right about, None without one."""
    note = read_header(experiment.store.predictions(experiment.explain_split, member.name)).get("right")
    return str(note) if note else None


def check_predictions(
    experiment: Experiment, member: Member, split: str, header: Mapping[str, Any], labels: Tensor
) -> None:
    """SettingsError where predictions are of another member or other images, whatever the split's size.

    Parameters
    ----------
    experiment, member, split : whose they should be.
    header, labels : of the predictions' file.
    """
    path, made = experiment.store.predictions(split, member.name), header["settings"]
    check_settings(path, made.get("member", {}), member.settings())
    check_settings(path, made.get("dataset", {}), image_settings(experiment))
    check_labels(experiment.inputs.labels(split), path, header.get("ids", []), labels.tolist())
    check_contents(experiment.inputs.contents(split), path, header.get("ids", []), header)
    of_it = {*header.get("ids", [])}
    records = [each for each in experiment.inputs.records(split) if each.image_id in of_it or not of_it]
    check_rule(experiment, member, path, made, records)


def check_contents(contents: Contents, path: Path, ids: Sequence[str], header: Mapping[str, Any]) -> None:
    """ContentsError where some of the images that an artefact at ``path`` was made of hold something else now."""
    if changed := contents.changed(ids, header.get("contents")):
        raise ContentsError(path, changed)


def check_labels(now: Mapping[str, int], path: Path, ids: Sequence[str], labels: Sequence[int]) -> None:
    """ContentsError naming the first image that has another label ``now`` than in an artefact at ``path``."""
    for image_id, label in zip(ids, labels, strict=False):
        if now.get(image_id, label) != label:
            difference = f"the label of image {image_id} is {label} there, {now[image_id]} now"
            raise ContentsError(path, [image_id], difference)


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


def ensemble_classes(experiment: Experiment) -> dict[str, int]:
    """Image id -> class by the mean probability of the members, -1 of images that they have not predicted.

    Of the explained split, by the members but those of random weights. Whoever lacks explanations later had its say.
    """
    found = experiment.inputs.by_ensemble
    if not found:
        sums: dict[str, Tensor] = {}
        for member in members_with_predictions(experiment):
            if not member.random:
                ids, probabilities, _ = predictions(experiment, experiment.explain_split, member)
                for image_id, row in zip(ids, probabilities, strict=True):
                    sums[image_id] = sums[image_id] + row if image_id in sums else row.double()
        for record in experiment.inputs.records(experiment.explain_split):
            found[record.image_id] = int(sums[record.image_id].argmax()) if record.image_id in sums else -1
    return found


# --- images ---


def explained_images(experiment: Experiment) -> list[Record]:
    """The images the committee explains, as the explain stage wrote them."""
    path = experiment.store.images(experiment.committee)
    if not path.is_file():
        raise needs("explain", f"{path} does not exist")
    read_settings(path)  # raises where the table is not as it was written
    table, split = read_csv(path, ["image_id", "label"]), experiment.explain_split
    ids = [str(image_id) for image_id in table["image_id"]]
    by_id = {record.image_id: record for record in experiment.inputs.records(split)}
    if absent := [image_id for image_id in ids if image_id not in by_id]:
        raise SettingsError(path, f"image {absent[0]} is there, not in split {split} now")
    try:
        check_labels(experiment.inputs.labels(split), path, ids, [int(label) for label in table["label"]])
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: a label is no whole number; remove it and run xconsensus explain") from error
    return [by_id[image_id] for image_id in ids]


def chosen_by(experiment: Experiment) -> str:
    """``explain.only_correct`` as the images that the committee explains were chosen by."""
    return str(read_settings(experiment.store.images(experiment.committee)).get("only_correct", "none"))


def contents_explained(experiment: Experiment) -> Contents:
    """What the images of the explained split hold; their labels too, or the classes that the ensemble predicts, where
    explanations depend on these.
    """
    explainer = experiment.explainer
    if explainer.get("target") == "ensemble":
        classes = ensemble_classes(experiment)
        return experiment.inputs.contents(experiment.explain_split).with_labels(classes, classes)
    return experiment.inputs.contents(
        experiment.explain_split, explainer.get("target") == "label" or own_code.is_own(explainer["method"])
    )


def segmenter_settings(experiment: Experiment) -> dict[str, Any]:
    """The segmenter, for explainers on superpixels; empty for those on pixels."""
    segmenter = experiment.explainer.get("segmenter")
    return {"segmenter": segmenter} if segmenter else {}


def label_maps(experiment: Experiment) -> Shards:
    """The images' superpixels by the explainer's segmenter, a label map (size * size,) each."""
    segmenter = experiment.explainer["segmenter"]
    settings = {"dataset": image_settings(experiment), "segmenter": segmenter}
    contents = experiment.inputs.contents(experiment.explain_split)
    return Shards(experiment.store.superpixels(segmenter["name"]), settings, contents=contents)


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
    packed, contents = not segmenter_settings(experiment), contents_explained(experiment)
    return Shards(folder, explanation_settings(experiment, member), packed=packed, contents=contents)


def consensus_of(experiment: Experiment, read: bool = True) -> Shards:
    """The committee's consensus; its settings name every member's explanations. ``read`` as `with_trained_weights`."""
    members = [with_trained_weights(experiment, member, read) for member in experiment.members]
    settings = {
        "vote": own_code.settled(experiment.explainer["vote"]),
        "explanations": {member.name: digest(explanation_settings(experiment, member)) for member in members},
    }
    folder = experiment.store.consensus(experiment.committee, experiment.explainer_name)
    return Shards(folder, settings, contents=contents_explained(experiment))
