"""explain: choose the images, cut them into superpixels, and explain every member on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from xconsensus import explainers
from xconsensus.arithmetic.fewer_bits import FewerBits, ForImage, for_image, in_precision
from xconsensus.arithmetic.folding import fold
from xconsensus.arithmetic.precision import by_rule, check_precision
from xconsensus.datasets import Record
from xconsensus.datasets.records import check_labels
from xconsensus.errors import InputError, MissingStageError
from xconsensus.experiment.artefacts import (
    ensemble_classes,
    explanations_of,
    label_maps,
    with_trained_weights,
)
from xconsensus.experiment.choosing import choose_images, chosen_of
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.experiment.networks import network_for
from xconsensus.explainers import Explainer, Explanation, fewer_bits
from xconsensus.explainers.explanation import Image
from xconsensus.explainers.superpixels import segment
from xconsensus.jobs.failures import Failures
from xconsensus.jobs.memory import Batches
from xconsensus.jobs.process import batch_size_of
from xconsensus.jobs.shares import own_share
from xconsensus.jobs.worklog import Worklog
from xconsensus.members.costs import operations_a_pass, seconds_a_pass
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.progress import Whole, counter, duration, log, say_once
from xconsensus.seeding import generator
from xconsensus.store.resume import discard, spoilt, turns
from xconsensus.store.shards import Shards
from xconsensus.threads import ahead, at_once

ROUNDING = 0.1  # a larger share of fewer bits in the variance of a network's outputs spoils an explanation


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    explain(start(config))


def explain(experiment: Experiment) -> float:
    """Choose the images unless they are chosen, and explain what is not explained yet.

    The seconds that a dry run expects of it; else 0.
    """
    explainer = explainers.make(experiment.explainer["method"], explainers.own_settings(experiment.explainer))
    check_precision(experiment.config["explain"]["precision"], experiment.device, fewer_bits(explainer))
    records = _images(experiment)
    check_labels(records, len(experiment.dataset.classes), known=getattr(explainer, "target", None) == "label")
    records = with_classes(experiment, records)
    own = own_images(experiment, records)
    if experiment.config["dry_run"]:
        return _plan(experiment, explainer, own)
    if experiment.config["shards"] > 1:
        ids = {record.image_id for _, images in own for record in images}
        records = [record for record in records if record.image_id in ids]
    labels = cut_superpixels(experiment, records) if explainer.on_superpixels else None
    size = batch_size_of(experiment.config["explain"]["batch_size"], experiment.device, experiment.images.size)
    work = Explaining(experiment, explainer, labels, Batches(size, "explain.batch_size"))
    failures = Failures("explain", partial(experiment.worklog, "explain"))
    own.sort(key=lambda each: failures.deaths(each[0].name))
    whole = Whole(sum(len(images) for _, images in own), len(own))
    for member, images in own:
        with failures.of(member.name) as worklog:
            explain_member(work, with_trained_weights(experiment, member), images, whole.next(), worklog)
    failures.report()
    log.info(f"{experiment.explainer_name}: {len(own)} members explained on {len(records)} images")
    return 0.0


def _images(experiment: Experiment) -> list[Record]:
    """The images to explain; of a dry run before predictions, as many as may be chosen once there are some."""
    try:
        return choose_images(experiment)
    except MissingStageError as error:
        if not experiment.config["dry_run"]:
            raise
        candidates = experiment.images.usable(experiment.inputs.records(experiment.explain_split))
        found = chosen_of(experiment, candidates)
        log.info(f"images are chosen once members have predicted: at most {len(found)} of {len(candidates)} ({error})")
        return found


def with_classes(experiment: Experiment, records: Sequence[Record]) -> list[Record]:
    """The images with the class that explainer.target=ensemble has explained as their label; else as they are.

    Raises InputError naming an image that the members have not predicted.
    """
    if experiment.explainer.get("target") != "ensemble":
        return list(records)
    try:
        classes = ensemble_classes(experiment)
    except MissingStageError:
        if experiment.config["dry_run"]:
            return list(records)
        raise
    found = [replace(record, label=classes[record.image_id]) for record in records]
    if unknown := next((record for record in found if record.label < 0), None):
        raise InputError(
            f"image {unknown.image_id}: no member has predicted it, as explainer.target=ensemble needs: run xconsensus"
            " finetune with the same settings and overwrite=true first"
        )
    return found


# --- whose images ---


def own_images(experiment: Experiment, records: Sequence[Record]) -> list[tuple[Member, list[Record]]]:
    """Members and the images that this job explains with each: whole chunks of ``explain.shard_images``, in order.

    Members without any are left out.
    """
    members, size = experiment.own_members, experiment.config["explain"]["shard_images"]
    if experiment.config["shards"] == 1:
        every = list(records)
        return [(member, every) for member in members]
    chunks = [records[first : first + size] for first in range(0, len(records), size)]
    operations = {member.name: operations_a_pass(member, len(experiment.dataset.classes)) for member in members}
    costs = {
        (member.name, number): operations[member.name] * len(chunk)
        for member in members
        for number, chunk in enumerate(chunks)
    }
    units = f"pieces (one member, up to {size} images)"
    images: dict[str, list[Record]] = {member.name: [] for member in members}
    for name, number in own_share(costs, experiment.config["shard"], experiment.config["shards"], units):
        images[name] += chunks[number]
    return [(member, images[member.name]) for member in members if images[member.name]]


def cut_superpixels(experiment: Experiment, records: Sequence[Record]) -> Shards:
    """Label maps of the images, one an image for all members, made where they are missing."""
    segmenter = dict(experiment.explainer["segmenter"])
    name = segmenter.pop("name")
    labels = label_maps(experiment)
    by_id = {record.image_id: record for record in records}
    discard(labels, spoilt(labels, experiment.config["overwrite"]))

    def cut(image_id: str) -> Tensor:
        return torch.from_numpy(segment(experiment.images.image(by_id[image_id]), name, segmenter))

    missing, progress = labels.missing(by_id), experiment.config["progress"]
    with counter(f"superpixels ({name})", len(missing), "images", progress) as count:
        for ids in turns(experiment.store.root, labels, [*by_id], experiment.config["explain"]["shard_images"]):
            labels.write(ids, at_once(cut, ids))
            count.add(len(ids))
    return labels


# --- one member ---


@dataclass(frozen=True)
class Explaining:
    """What the explanations of all members have in common; ``labels`` are superpixels, for explainers on these."""

    experiment: Experiment
    explainer: Explainer
    labels: Shards | None
    batches: Batches

    def image(self, record: Record) -> Image:
        """One image as explainers take it."""
        images, seed = self.experiment.images, self.experiment.seed
        segments = self.labels.values(record.image_id).reshape(images.size, images.size) if self.labels else None
        return Image(images.image(record), record.label, partial(generator, seed, record.image_id), segments)


def explain_member(work: Explaining, member: Member, records: Sequence[Record], whole: Whole, worklog: Worklog) -> None:
    """Explain what is missing of one member, a shard at a time; the next image is read while one is explained.

    Parameters
    ----------
    work : the experiment, explainer and superpixels.
    member : one with weights.
    records : the images to explain.
    whole : the images of all members, of which progress tells.
    worklog : where it is noted how many are done.
    """
    experiment, shards = work.experiment, explanations_of(work.experiment, member)
    discard(shards, spoilt(shards, experiment.config["overwrite"]))
    by_id = {record.image_id: record for record in records}
    missing = shards.missing(by_id)
    whole.skip(len(by_id) - len(missing))
    if not missing:
        return
    worklog.begin()
    network = prepared(experiment, work.explainer, member)
    precision = network.precision if isinstance(network, FewerBits) else "float32"
    name, again = experiment.explainer_name, 0
    if precision != "float32":
        line = (
            f"{name}: computes in {precision} where that changes little; explain.precision=float32 has all in float32"
        )
        say_once(line, f"precision {name}")
    with counter(f"{name} {member.name}", len(missing), "images", experiment.config["progress"], whole) as count:
        for ids in turns(experiment.store.root, shards, [*by_id], experiment.config["explain"]["shard_images"]):
            _check_precision(shards, precision)
            found, chunk = [], [by_id[image_id] for image_id in ids]
            for record, image in zip(chunk, ahead(work.image, chunk), strict=True):
                explanation, in_float32 = _explain(work, network, record, image)
                found.append(explanation)
                again += in_float32
                count.add()
            shards.write(ids, [each.values for each in found], _fields(found), precision=precision)
            worklog.add(len(ids))
    if again:
        log.info(f"{member.name}: {again} of {len(missing)} images explained in float32, as {precision} spoilt them")


def _fields(found: Sequence[Explanation]) -> dict[str, Tensor]:
    """What explanations carry beside their values, a tensor (n,) each."""
    numbers = [{"probability": each.probability, **each.fields} for each in found]
    return {
        "predicted": torch.tensor([each.predicted for each in found]),
        **{name: torch.tensor([each[name] for each in numbers], dtype=torch.float64) for name in numbers[0]},
    }


def prepared(experiment: Experiment, explainer: Explainer, member: Member) -> Network | FewerBits:
    """The member's network, folded, in the precision that is asked for or that follows from the device and itself."""
    config, classes = experiment.config, len(experiment.dataset.classes)
    network = fold(network_for(experiment, member, gradients=explainer.passes()[1] > 0))
    if (precision := config["explain"]["precision"]) == "auto":
        return by_rule(network, fewer_bits(explainer), classes)
    return in_precision(network, precision, classes)


def _check_precision(shards: Shards, precision: str) -> None:
    """InputError where the first of the member's shards was computed in another precision, on another machine."""
    if (found := shards.note("precision") or precision) != precision:
        raise InputError(
            f"{shards.folder}: holds explanations in {found}, and this run takes {precision}: go on where they were"
            " made, or make all of them again with explain.precision=float32 overwrite=true"
        )


def _explain(work: Explaining, network: Network | FewerBits, record: Record, image: Image) -> tuple[Explanation, bool]:
    """One image and member, and whether fewer bits had spoilt it and it was computed again in float32.

    InputError when the member's output or the explanation is not finite in float32 either.
    """
    own = network.network if isinstance(network, FewerBits) else network
    explanation = work.batches.compute(partial(_attempt, work.explainer, network, image), own.member.name)
    spoilt = not (_is_finite(explanation) and explanation.fields.get("rounding", 0) <= ROUNDING)
    if spoilt and network is not own:
        explanation = work.batches.compute(partial(_attempt, work.explainer, own, image), own.member.name)
    if not _is_finite(explanation):
        raise InputError(f"member {own.member.name} returns NaN for image {record.image_id}")
    return explanation, spoilt


def _attempt(explainer: Explainer, network: Network | FewerBits, image: Image, batch_size: int) -> Explanation:
    """The explanation; where passes forward alone may be in fewer bits, with ``rounding``, their share in it."""
    own = for_image(network)
    found = explainer(own, image, batch_size)
    if explainer.passes()[1] or not fewer_bits(explainer):
        return found
    target = found.predicted if found.target is None else found.target
    share = own.share_of_error(target) if isinstance(own, ForImage) else 0.0
    return replace(found, fields={**found.fields, "rounding": share})


def _is_finite(explanation: Explanation) -> bool:
    return bool(np.isfinite(explanation.probability) and explanation.values.isfinite().all())


# --- before anything is spent ---


def _plan(experiment: Experiment, explainer: Explainer, own: list[tuple[Member, list[Record]]]) -> float:
    """Say what the stage would do and cost, after building every member and timing a batch of each; the seconds."""
    forward, backward = explainer.passes()
    values = 4 * 100 if explainer.on_superpixels else 2 * experiment.images.size**2  # bytes an explanation
    total, seconds, untrained = 0, 0.0, experiment.config["committee"]["finetune"]
    failures = Failures("explain")
    batch_size = batch_size_of(experiment.config["explain"]["batch_size"], experiment.device, experiment.images.size)
    for member, records in own:
        with failures.of(member.name):
            ready, todo = _still_to_do(experiment, member, records)
            network = network_for(experiment, ready, gradients=backward > 0, untrained=ready is member and untrained)
            cost = seconds_a_pass(network, experiment.images.size, "inputs" if backward else None, batch_size)
            estimate = todo * max(forward, backward) * cost
            log.info(f"  {member.name}: {todo} images to explain, {len(records) - todo} done, {duration(estimate)}")
            total, seconds = total + todo, seconds + estimate
    log.info(
        f"explain would make {total} explanations by {experiment.explainer_name}: {total * forward} forward and"
        f" {total * backward} backward passes, {duration(seconds)} on {experiment.device} in float32,"
        f" {total * values / 1e6:.1f} MB on disk"
    )
    failures.report()
    return seconds


def _still_to_do(experiment: Experiment, member: Member, records: Sequence[Record]) -> tuple[Member, int]:
    """The member as it is explained, or as it is before it is trained, and how many images lack its explanation."""
    try:
        ready = with_trained_weights(experiment, member)
        shards = explanations_of(experiment, ready)
    except MissingStageError:  # weights, or the predictions that explainer.target=ensemble needs
        return member, len(records)
    spoilt(shards, experiment.config["overwrite"])
    return ready, len(shards.missing([record.image_id for record in records]))
