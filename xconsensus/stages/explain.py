"""explain: choose the images, cut them into superpixels, and explain every member on them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from xconsensus import explainers
from xconsensus.arithmetic.fewer_bits import FewerBits, ForImage, for_image, in_precision
from xconsensus.arithmetic.folding import fold
from xconsensus.arithmetic.precision import by_rule, check_precision
from xconsensus.datasets import Record
from xconsensus.datasets.records import check_labels
from xconsensus.datasets.selection import choose, right_images
from xconsensus.errors import ContentsError, InputError, RuleError
from xconsensus.experiment.artefacts import (
    check_contents,
    explained_images,
    explanations_of,
    image_settings,
    label_maps,
    members_with_predictions,
    predictions,
    right_note,
    with_trained_weights,
)
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
from xconsensus.progress import counter, log
from xconsensus.seeding import generator
from xconsensus.store.contents import Contents
from xconsensus.store.files import read_settings, write_csv
from xconsensus.store.provenance import check_settings
from xconsensus.store.resume import discard, is_made, spoilt, turns
from xconsensus.store.shards import Shards
from xconsensus.threads import ahead, at_once

RULE = 2  # of `choose`; by rule 1 fewer images than classes were of the first labels. Tables without number are of it
ROUNDING = 0.1  # a larger share of fewer bits in the variance of a network's outputs spoils an explanation


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    explain(start(config))


def explain(experiment: Experiment) -> None:
    """Choose the images unless they are chosen, and explain what is not explained yet."""
    explainer = explainers.make(experiment.explainer["method"], explainers.own_settings(experiment.explainer))
    check_precision(experiment.config["explain"]["precision"], experiment.device, fewer_bits(explainer))
    records = choose_images(experiment)
    check_labels(records, len(experiment.dataset.classes), known=getattr(explainer, "target", None) == "label")
    own = own_images(experiment, records)
    if experiment.config["dry_run"]:
        _plan(experiment, explainer, own)
        return
    if experiment.config["shards"] > 1:
        ids = {record.image_id for _, images in own for record in images}
        records = [record for record in records if record.image_id in ids]
    labels = cut_superpixels(experiment, records) if explainer.on_superpixels else None
    size = batch_size_of(experiment.config["explain"]["batch_size"], experiment.device, experiment.images.size)
    work = Explaining(experiment, explainer, labels, Batches(size, "explain.batch_size"))
    failures = Failures("explain", partial(experiment.worklog, "explain"))
    own.sort(key=lambda each: failures.deaths(each[0].name))
    for number, (member, images) in enumerate(own, 1):
        with failures.of(member.name) as worklog:
            title = f"{experiment.explainer_name} {member.name} ({number}/{len(own)})"
            explain_member(work, with_trained_weights(experiment, member), images, title, worklog)
    failures.report()
    log.info(f"{experiment.explainer_name}: {len(own)} members explained on {len(records)} images")


# --- which images, and whose ---


def choose_images(experiment: Experiment) -> list[Record]:
    """The images this committee explains; written to images/<committee>.csv, with how they were chosen beside it.

    The number of the rule stands there where the rule before would have chosen others.
    """
    path, options = experiment.store.images(experiment.committee), experiment.config["explain"]
    candidates = experiment.inputs.records(experiment.explain_split)
    settings: dict[str, Any] = {
        "dataset": image_settings(experiment),
        **{key: options[key] for key in ("images", "per_class", "sample", "only_correct")},
        "split": experiment.explain_split,
        "seed": experiment.seed,
        "candidates": len(candidates),
    }
    members = [] if options["only_correct"] == "none" else members_with_predictions(experiment)
    if members:
        settings["members"] = {member.name: member.settings()["weights"] for member in members}
        settings["right"] = {member.name: note for member in members if (note := right_note(experiment, member))}
    judged = cache(partial(Judged.by, experiment, members, candidates))
    check = partial(_check_table, experiment, settings, judged)
    if is_made(path, check, experiment.config["overwrite"]):
        return explained_images(experiment)
    right = judged().usable(options["only_correct"])
    chosen = _choose(experiment, right)
    if options["only_correct"] == "all":
        _say_what_any_gives(judged(), len(chosen))
    if experiment.dataset.has_masks:
        for record in chosen:
            experiment.dataset.mask(record)  # a wrong mask is better found before the hours than after
    classes = len({record.label for record in chosen})
    log.info(
        f"{len(chosen)} images of {classes} classes to explain, of {len(right)} that remain of {len(candidates)}"
        f"{_why(options)}"
    )
    if not experiment.config["dry_run"]:
        rows = [(r.image_id, _below_root(experiment, r.path), r.label) for r in chosen]
        if _rule_matters(experiment, chosen, right):
            settings["rule"] = RULE
        if members:
            settings["contents"] = _contents_judged(experiment).of(record.image_id for record in candidates)
        write_csv(path, pd.DataFrame(rows, columns=["image_id", "path", "label"]), settings)
    return chosen


def _check_table(experiment: Experiment, settings: Mapping[str, Any], judged: Callable[[], "Judged"]) -> None:
    """SettingsError where the images were chosen otherwise, or judged by other contents, labels or predictions.

    Parameters
    ----------
    experiment, settings : how images are chosen now.
    judged : gives what they are chosen from, and by whom.
    """
    path, by_members = experiment.store.images(experiment.committee), "members" in settings
    made = read_settings(path)
    note, rule = {"contents": made.pop("contents", None)}, made.pop("rule", None)
    known = {"right": settings["right"]} if by_members else {}  # tables of before have no note of it
    check_settings(path, {**known, **made, "rule": rule or RULE}, {**settings, "rule": RULE})
    chosen = explained_images(experiment)
    if by_members:
        candidates = experiment.inputs.records(experiment.explain_split)
        check_contents(_contents_judged(experiment), path, [record.image_id for record in candidates], note)
    if by_members and settings["right"] and "right" not in made:  # of before, and of predictions made since, maybe
        right = {*judged().right(settings["only_correct"])}
        if wrong := [record.image_id for record in chosen if record not in right]:
            raise ContentsError(path, wrong, f"the members are no longer right about image {wrong[0]}")
    if rule or not _may_be_of_first_labels(experiment, chosen):
        return
    right_now = judged().usable(settings["only_correct"])
    if _rule_matters(experiment, chosen, right_now):
        last = max(record.label for record in chosen)
        raise RuleError(
            path,
            f"rule is 1 there, {RULE} now: its {len(chosen)} images are of the first classes alone, up to label {last},"
            " and are now spread over all",
            "explain",
        )


def _choose(experiment: Experiment, right: Sequence[Record]) -> list[Record]:
    options = experiment.config["explain"]
    return choose(right, options["sample"], options["images"], options["per_class"], experiment.seed)


def _may_be_of_first_labels(experiment: Experiment, chosen: Sequence[Record]) -> bool:
    """Whether rule 1 may have met fewer images than classes: as many ``first`` ones as asked for, of a class each."""
    options, classes = experiment.config["explain"], {record.label for record in chosen}
    return bool(options["sample"] == "first" and options["images"] == len(classes) == len(chosen))


def _rule_matters(experiment: Experiment, chosen: Sequence[Record], right: Sequence[Record]) -> bool:
    """Whether the rule before and the present one choose other images of ``right``: there are more classes in it."""
    return _may_be_of_first_labels(experiment, chosen) and len(chosen) < len({record.label for record in right})


def _contents_judged(experiment: Experiment) -> Contents:
    """What members are right or wrong about: images and labels."""
    return experiment.inputs.contents(experiment.explain_split, labels=True)


def _below_root(experiment: Experiment, path: str) -> str:
    """A path relative to the data set's folder, where it lies in it: the folder may move."""
    root = experiment.config["dataset"].get("root")
    return os.path.relpath(path, root) if root and Path(path).is_relative_to(root) else path


def _why(options: Mapping[str, Any]) -> str:
    match options["only_correct"]:
        case "all":
            return ", right by every member"
        case "any":
            return ", right by some member"
    return ""


@dataclass(frozen=True)
class Judged:
    """Images of the explained split that all ``members`` have predicted, and which are ``correct`` (members, n).

    Without members, nobody was asked.
    """

    experiment: Experiment
    members: Sequence[Member]
    records: list[Record]
    correct: NDArray[np.bool_]

    @classmethod
    def by(cls, experiment: Experiment, members: Sequence[Member], candidates: Sequence[Record]) -> "Judged":
        """The candidates, by the members' stored predictions; InputError where none has a known label."""
        if not members:
            return cls(experiment, members, list(candidates), np.empty((0, len(candidates)), dtype=bool))
        if all(record.label < 0 for record in candidates):
            mode = experiment.config["explain"]["only_correct"]
            raise InputError(
                f"explain.only_correct={mode}: labels of the images are unknown; set explain.only_correct=none"
            )
        by_id = {record.image_id: record for record in candidates}
        hits: dict[str, list[bool]] = {}
        for member in members:
            ids, probabilities, labels = predictions(experiment, experiment.explain_split, member)
            for image_id, hit in zip(ids, (probabilities.argmax(1) == labels).tolist(), strict=True):
                hits.setdefault(image_id, []).append(hit)
        ids = [image_id for image_id, found in hits.items() if len(found) == len(members) and image_id in by_id]
        correct = np.array([hits[image_id] for image_id in ids], dtype=bool).reshape(len(ids), len(members)).T
        return cls(experiment, members, [by_id[image_id] for image_id in ids], correct)

    def right(self, mode: str) -> list[Record]:
        """The images that all or any (``mode``) of the members classify correctly; with none, every one.

        Raises InputError where there is none.
        """
        kept = right_images(self.correct, mode)
        if not kept.any() and self.members:
            raise InputError(
                f"no image of split {self.experiment.explain_split} is classified correctly by {mode} of the"
                f" {len(self.members)} members{self._by_any(mode)}: set explain.only_correct=any or none, or leave out"
                " the weakest members"
            )
        return [record for record, keep in zip(self.records, kept, strict=True) if keep]

    def usable(self, mode: str) -> list[Record]:
        """Those of `right` that can be explained."""
        return self.experiment.images.usable(self.right(mode), masks=self.experiment.dataset.has_masks)

    def _by_any(self, mode: str) -> str:
        return f", {right_images(self.correct, 'any').sum()} by any" if mode == "all" else ""


def _say_what_any_gives(judged: Judged, chosen: int) -> None:
    """A line where members that must all be right leave fewer images than are asked for, and others would not."""
    experiment = judged.experiment
    options = experiment.config["explain"]
    if options["images"] is None and options["per_class"] is None:
        return
    by_all, by_any = judged.right("all"), judged.right("any")
    if chosen < (possible := len(_choose(experiment, by_any))):
        weakest = judged.members[int(judged.correct.mean(1).argmin())].name
        log.info(
            f"all {len(judged.members)} members are right about {len(by_all)} images, enough for {chosen}:"
            f" explain.only_correct=any would give {possible}, of {len(by_any)} that some member gets right"
            f" ({weakest} is right least often)"
        )


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


def explain_member(work: Explaining, member: Member, records: Sequence[Record], title: str, worklog: Worklog) -> None:
    """Explain what is missing of one member, a shard at a time; the next image is read while one is explained.

    Parameters
    ----------
    work : the experiment, explainer and superpixels.
    member : one with weights.
    records : the images to explain.
    title : what the progress bar says.
    worklog : where it is noted how many are done.
    """
    experiment, shards = work.experiment, explanations_of(work.experiment, member)
    discard(shards, spoilt(shards, experiment.config["overwrite"]))
    by_id = {record.image_id: record for record in records}
    if not (missing := shards.missing(by_id)):
        return
    worklog.begin()
    network = prepared(experiment, work.explainer, member)
    precision = network.precision if isinstance(network, FewerBits) else "float32"
    again = 0
    with counter(title, len(missing), "images", experiment.config["progress"]) as count:
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


def _plan(experiment: Experiment, explainer: Explainer, own: list[tuple[Member, list[Record]]]) -> None:
    """Say what the stage would do and cost, after building every member and timing one batch of the slowest."""
    forward, backward = explainer.passes()
    values = 4 * 100 if explainer.on_superpixels else 2 * experiment.images.size**2  # bytes an explanation
    total, seconds = 0, 0.0
    failures = Failures("explain")
    for member, records in own:
        with failures.of(member.name):
            ready = with_trained_weights(experiment, member)
            shards = explanations_of(experiment, ready)
            spoilt(shards, experiment.config["overwrite"])
            todo = len(shards.missing([record.image_id for record in records]))
            network = network_for(experiment, ready, gradients=backward > 0)
            cost = seconds_a_pass(network, experiment.images.size, "inputs" if backward else None)
            estimate = todo * max(forward, backward) * cost
            log.info(f"  {member.name}: {todo} images to explain, {len(records) - todo} done, about {estimate:.0f} s")
            total, seconds = total + todo, seconds + estimate
    log.info(
        f"explain would make {total} explanations: {total * forward} forward and {total * backward} backward passes,"
        f" about {seconds / 3600:.2f} h on {experiment.device} in float32, {total * values / 1e6:.1f} MB on disk"
    )
    failures.report()
