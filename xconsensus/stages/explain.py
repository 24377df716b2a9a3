"""explain: choose the images, cut them into superpixels, and explain every member on them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from xconsensus import explainers
from xconsensus.arithmetic.fewer_bits import FewerBits, ForImage, for_image, in_precision
from xconsensus.arithmetic.folding import fold
from xconsensus.arithmetic.precision import by_rule, check_precision
from xconsensus.datasets import Record
from xconsensus.datasets.selection import choose, right_images
from xconsensus.errors import InputError
from xconsensus.explainers import Explainer, Explanation, fewer_bits
from xconsensus.explainers.explanation import Image
from xconsensus.explainers.superpixels import segment
from xconsensus.jobs.failures import Failures
from xconsensus.jobs.memory import within_memory
from xconsensus.jobs.worklog import Work
from xconsensus.members.costs import seconds_a_pass
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.progress import counter, log
from xconsensus.seeding import generator
from xconsensus.stages.context import Context
from xconsensus.stages.sharding import own_images
from xconsensus.store.files import read_settings, write_csv
from xconsensus.store.provenance import check_settings
from xconsensus.store.shards import Shards
from xconsensus.threads import ahead, at_once

ROUNDING = 0.1  # a larger share of fewer bits in the variance of a network's outputs spoils an explanation


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    context = Context(config)
    settings = context.explainer_settings()
    del settings["method"]
    explainer = explainers.make(context.config["explainer"]["method"], settings)
    check_precision(context.config["explain"]["precision"], context.device, fewer_bits(explainer))
    records = _choose_images(context)
    own = own_images(context, records)
    if context.dry_run:
        _plan(context, explainer, own)
        return
    if context.shards > 1:
        ids = {record.image_id for _, images in own for record in images}
        records = [record for record in records if record.image_id in ids]
    labels = _cut_superpixels(context, records) if explainer.on_superpixels else None
    failures = Failures("explain", partial(context.work, "explain"))
    own.sort(key=lambda each: failures.deaths(each[0].name))
    for number, (member, images) in enumerate(own, 1):
        with failures.of(member.name) as work:
            title = f"{context.config['explainer']['name']} {member.name} ({number}/{len(own)})"
            _explain_member(context, explainer, context.ready(member), images, labels, title, work)
    failures.report()
    log.info(f"{context.config['explainer']['name']}: {len(own)} members explained on {len(records)} images")


def _choose_images(context: Context) -> list[Record]:
    """The images this committee explains; written to images/<committee>.csv, with how they were chosen beside it."""
    path, options = context.store.images(context.committee), context.config["explain"]
    candidates = context.dataset.records(context.explain_split)
    settings = {
        "dataset": context.image_settings,
        **{key: options[key] for key in ("images", "per_class", "sample", "only_correct")},
        "split": context.explain_split,
        "seed": context.seed,
        "candidates": len(candidates),
    }
    if options["only_correct"] != "none":
        members = context.predicted()
        settings["members"] = {member.name: member.settings()["weights"] for member in members}
    if context.usable(path, lambda: check_settings(path, read_settings(path), settings)):
        return context.chosen()
    if options["only_correct"] == "none":
        right = candidates
    else:
        right = _right(context, members, candidates, options["only_correct"])
    right = context.readable(right, masks=context.dataset.has_masks)
    chosen = choose(right, options["sample"], options["images"], options["per_class"], context.seed)
    if context.dataset.has_masks:
        for record in chosen:
            context.dataset.mask(record)  # a wrong mask is better found before the hours than after
    log.info(f"{len(chosen)} images to explain, of {len(right)} that remain of {len(candidates)}{_why(options)}")
    if not context.dry_run:
        table = pd.DataFrame([(r.image_id, r.path, r.label) for r in chosen], columns=["image_id", "path", "label"])
        write_csv(path, table, settings)
    return chosen


def _why(options: dict[str, object]) -> str:
    match options["only_correct"]:
        case "all":
            return ", right by every member"
        case "any":
            return ", right by some member"
    return ""


def _right(context: Context, members: Sequence[Member], candidates: Sequence[Record], mode: str) -> list[Record]:
    """The candidates that all or any of the members classify correctly, by their stored predictions."""
    if all(record.label < 0 for record in candidates):
        raise InputError(
            f"explain.only_correct={mode}: labels of the images are unknown; set explain.only_correct=none"
        )
    by_id = {record.image_id: record for record in candidates}
    correct: dict[str, list[bool]] = {}
    for member in members:
        ids, probabilities, labels = context.predictions(context.explain_split, member)
        for image_id, hit in zip(ids, (probabilities.argmax(1) == labels).tolist(), strict=True):
            correct.setdefault(image_id, []).append(hit)
    ids = [image_id for image_id, hits in correct.items() if len(hits) == len(members) and image_id in by_id]
    kept = right_images(np.array([correct[image_id] for image_id in ids], dtype=bool).reshape(len(ids), -1).T, mode)
    right = [by_id[image_id] for image_id, keep in zip(ids, kept, strict=True) if keep]
    if not right:
        raise InputError(
            f"no image of split {context.explain_split} is classified correctly by {mode} of the {len(members)}"
            " members: set explain.only_correct=any or none, or leave out the weakest members"
        )
    return right


def _cut_superpixels(context: Context, records: Sequence[Record]) -> Shards:
    """Label maps of the images, one an image for all members, made where they are missing."""
    segmenter = dict(context.config["explainer"]["segmenter"])
    name = segmenter.pop("name")
    labels = context.labels(name)
    by_id = {record.image_id: record for record in records}
    missing = context.missing(labels, by_id)

    def cut(image_id: str) -> Tensor:
        return torch.from_numpy(segment(context.image(by_id[image_id]), name, segmenter))

    with counter(f"superpixels ({name})", len(missing), "images", context.progress) as count:
        for ids in context.chunks(labels, [*by_id], context.config["explain"]["shard_images"]):
            labels.write(ids, at_once(cut, ids))
            count.add(len(ids))
    return labels


def _explain_member(
    context: Context,
    explainer: Explainer,
    member: Member,
    records: Sequence[Record],
    labels: Shards | None,
    title: str,
    work: Work,
) -> None:
    """Explain what is missing of one member, a shard at a time; the next image is read while one is explained."""
    shards = context.explanations(member)
    if not (missing := context.missing(shards, [record.image_id for record in records])):
        return
    by_id = {record.image_id: record for record in records}
    work.begin()
    network = _with_precision(context, explainer, fold(context.network(member)))
    precision = network.precision if isinstance(network, FewerBits) else "float32"
    spoilt = 0
    with counter(title, len(missing), "images", context.progress) as count:
        for ids in context.chunks(shards, [*by_id], context.config["explain"]["shard_images"]):
            _check_precision(shards, precision)
            found, chunk = [], [by_id[image_id] for image_id in ids]
            for record, image in zip(chunk, ahead(partial(_image, context, labels), chunk), strict=True):
                explanation, again = _explain(context, explainer, network, record, image)
                found.append(explanation)
                spoilt += again
                count.add()
            shards.write(ids, [each.values for each in found], _fields(found), precision=precision)
            work.add(len(ids))
    if spoilt:
        log.info(f"{member.name}: {spoilt} of {len(missing)} images explained in float32, as {precision} spoilt them")


def _fields(found: Sequence[Explanation]) -> dict[str, Tensor]:
    """What explanations carry beside their values, a tensor (n,) each."""
    numbers = [{"probability": each.probability, **each.fields} for each in found]
    return {
        "predicted": torch.tensor([each.predicted for each in found]),
        **{name: torch.tensor([each[name] for each in numbers], dtype=torch.float64) for name in numbers[0]},
    }


def _image(context: Context, labels: Shards | None, record: Record) -> Image:
    """One image as explainers take it."""
    segments = labels.values(record.image_id).reshape(context.size, context.size) if labels else None
    return Image(context.image(record), record.label, partial(generator, context.seed, record.image_id), segments)


def _with_precision(context: Context, explainer: Explainer, network: Network) -> Network | FewerBits:
    """The network in the precision that is asked for, or that follows from the device and the network."""
    precision, classes = context.config["explain"]["precision"], len(context.dataset.classes)
    if precision == "auto":
        return by_rule(network, fewer_bits(explainer), classes)
    return in_precision(network, precision, classes)


def _check_precision(shards: Shards, precision: str) -> None:
    """InputError where the first of the member's shards was computed in another precision, on another machine."""
    if (found := shards.note("precision") or precision) != precision:
        raise InputError(
            f"{shards.folder}: holds explanations in {found}, and this run takes {precision}: go on where they were"
            " made, or make all of them again with explain.precision=float32 overwrite=true"
        )


def _explain(
    context: Context, explainer: Explainer, network: Network | FewerBits, record: Record, image: Image
) -> tuple[Explanation, bool]:
    """One image and member, and whether fewer bits had spoilt it and it was computed again in float32.

    InputError when the member's output or the explanation is not finite in float32 either.
    """
    own = network.network if isinstance(network, FewerBits) else network
    explanation = _attempt(context, explainer, network, own.member.name, image)
    spoilt = not (_is_finite(explanation) and explanation.fields.get("rounding", 0) <= ROUNDING)
    if spoilt and network is not own:
        explanation = _attempt(context, explainer, own, own.member.name, image)
    if not _is_finite(explanation):
        raise InputError(f"member {own.member.name} returns NaN for image {record.image_id}")
    return explanation, spoilt


def _attempt(
    context: Context, explainer: Explainer, network: Network | FewerBits, name: str, image: Image
) -> Explanation:
    """The explanation; ``rounding`` is the share of fewer bits in it, 0 in float32, where passes forward alone may be
    in fewer bits.
    """

    def compute(batch_size: int) -> Explanation:
        own = for_image(network)
        found = explainer(own, image, batch_size)
        if explainer.passes()[1] or not fewer_bits(explainer):
            return found
        target = found.predicted if found.target is None else found.target
        share = own.share_of_error(target) if isinstance(own, ForImage) else 0.0
        return replace(found, fields={**found.fields, "rounding": share})

    explanation, context.batch_size = within_memory(compute, context.batch_size, name, "explain.batch_size")
    context.memory.release_if_grown()
    return explanation


def _is_finite(explanation: Explanation) -> bool:
    return bool(np.isfinite(explanation.probability) and explanation.values.isfinite().all())


def _plan(context: Context, explainer: Explainer, own: list[tuple[Member, list[Record]]]) -> None:
    """Say what the stage would do and cost, after building every member and timing one batch of the slowest."""
    forward, backward = explainer.passes()
    values = 4 * 100 if explainer.on_superpixels else 2 * context.size**2  # bytes an explanation
    total, seconds = 0, 0.0
    failures = Failures("explain")
    for member, records in own:
        with failures.of(member.name):
            ready = context.ready(member)
            todo = len(context.missing(context.explanations(ready), [record.image_id for record in records]))
            cost = seconds_a_pass(context.rehearsal(ready), context.size, "inputs" if backward else None)
            estimate = todo * max(forward, backward) * cost
            log.info(f"  {member.name}: {todo} images to explain, {len(records) - todo} done, about {estimate:.0f} s")
            total, seconds = total + todo, seconds + estimate
    log.info(
        f"explain would make {total} explanations: {total * forward} forward and {total * backward} backward passes,"
        f" about {seconds / 3600:.2f} h on {context.device} in float32, {total * values / 1e6:.1f} MB on disk"
    )
    failures.report()
