"""finetune: train each member if the committee is to be trained, and write every member's predictions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from xxhash import xxh3_64_hexdigest

from xconsensus.datasets import Record
from xconsensus.datasets.records import check_labels
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import (
    check_predictions,
    check_training,
    prediction_settings,
    training_note,
    weights_settings,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.experiment.networks import network_for
from xconsensus.experiment.rules import check_rule
from xconsensus.jobs.failures import Failures
from xconsensus.jobs.memory import is_out_of_memory, release_freed_memory, within_memory
from xconsensus.jobs.shares import own_share
from xconsensus.jobs.worklog import Worklog
from xconsensus.members.costs import operations_a_pass, seconds_a_pass
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.members.preprocessing import described, pixels_by, rule_of_predictions, rule_of_training, view
from xconsensus.members.training import Images, Recipe, State, train
from xconsensus.progress import counter, log
from xconsensus.scores.accuracy import accuracy
from xconsensus.store.files import remove, write_json
from xconsensus.store.locks import claimed
from xconsensus.store.provenance import check_settings
from xconsensus.store.resume import is_made
from xconsensus.store.tensors import read_header, read_whole, verify, write_tensors


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    finetune(start(config))


def finetune(experiment: Experiment) -> None:
    """Train what is not trained yet, and predict the test images and those that may be explained."""
    trained = experiment.config["committee"]["finetune"]
    recipe = recipe_of(experiment)
    members = own_members(experiment)
    splits = dict.fromkeys(["test", experiment.explain_split])
    records = {split: experiment.images.usable(experiment.inputs.records(split)) for split in splits}
    training = experiment.inputs.records("train") if trained else []
    for some in (*records.values(), training):
        check_labels(some, len(experiment.dataset.classes))
    experiment.images.find_masks(records[experiment.explain_split])
    if any(record.label < 0 for record in training):
        raise InputError("labels of training images are unknown: set committee.finetune=false, or dataset.labels")
    _say_what_is_seen(experiment, members)
    if experiment.config["dry_run"]:
        _plan(experiment, members, recipe, training, records)
        return
    failures = Failures("finetune", partial(experiment.worklog, "finetune"))
    members.sort(key=lambda member: failures.deaths(member.name))
    units = [(experiment.store.weights(member.name), (number, member)) for number, member in enumerate(members, 1)]
    for number, member in claimed(experiment.store.root, units):
        title = f"finetune {member.name} ({number}/{len(members)})"
        with failures.of(member.name) as worklog:
            if trained and member.random:
                draw_member(experiment, member)
            elif trained:
                train_member(experiment, member, recipe, training, title, worklog)
            for split in splits:
                ready = with_trained_weights(experiment, member)
                predict_member(experiment, ready, split, records[split], title, worklog)
            if trained:
                _describe(experiment, member)
        release_freed_memory()
    failures.report()
    log.info(f"finetune: {len(members)} members ready, their predictions written")


def _say_what_is_seen(experiment: Experiment, members: Sequence[Member]) -> None:
    """A line for each preprocessing, with the members that share it, and one for what is explained."""
    alike: dict[str, list[str]] = {}
    for member in members:
        alike.setdefault(described(member), []).append(member.name)
    for preprocessing, names in alike.items():
        log.info(f"predicted from {preprocessing}: {', '.join(names)}")
    size, resize = experiment.images.size, experiment.images.resize
    log.info(f"explained is {size}x{size} of short edge {resize} (bicubic), for all members alike")


def own_members(experiment: Experiment) -> list[Member]:
    """The members that this job trains, of near-equal work in all jobs."""
    members, shares = experiment.own_members, experiment.config["shards"]
    if shares == 1:
        return members
    costs = {member.name: operations_a_pass(member, len(experiment.dataset.classes)) for member in members}
    own = own_share(costs, experiment.config["shard"], shares, "members")
    return [member for member in members if member.name in own]


def recipe_of(experiment: Experiment) -> Recipe:
    """The hyper-parameters of the config, the precision settled for the device."""
    values = {key: value for key, value in experiment.config["finetune"].items() if key in Recipe.__annotations__}
    if values["precision"] == "auto":
        on_gpu = experiment.device.type == "cuda" and torch.cuda.is_bf16_supported()
        values["precision"] = "bfloat16" if on_gpu else "float32"
    return Recipe(**values)


def train_member(
    experiment: Experiment, member: Member, recipe: Recipe, training: Sequence[Record], title: str, worklog: Worklog
) -> None:
    """Train one member from its last finished epoch, unless it is trained already.

    Parameters
    ----------
    experiment, member, recipe : what is trained, and how.
    training : images to train on.
    title : what the progress bar says.
    worklog : where it is noted how far the training is.

    Raises InputError naming the member when memory does not suffice for a batch.
    """
    path, checkpoint = experiment.store.weights(member.name), experiment.store.checkpoint(member.name)
    settings = weights_settings(experiment, member, recipe, len(training))
    notes = training_note(experiment)
    is_trained = partial(_is_trained, experiment, member, settings, training)
    if is_trained(path):
        remove(checkpoint)
        return
    worklog.begin()
    usable = experiment.images.usable(training)
    read = partial(_resized, experiment, member, usable)
    images = Images(read, [record.label for record in usable])
    network = network_for(experiment, member, untrained=True)
    state = _restore(checkpoint) if is_trained(checkpoint) else State()
    with counter(title, recipe.epochs, "epochs", experiment.config["progress"]) as count:
        count.add(state.epoch)
        try:
            for reached in train(network, images, recipe, experiment.seed, state):
                _save(checkpoint, reached, settings, notes)
                worklog.add(1)
                count.add()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory in training: lower finetune.batch_size={recipe.batch_size}"
            raise InputError(f"member {member.name}: {reason}") from error
    write_tensors(path, _own(network.model.state_dict()), settings, history=state.history, training=notes)
    remove(checkpoint)


def draw_member(experiment: Experiment, member: Member) -> None:
    """Write the random weights that a member keeps, unless they are there already."""
    path = experiment.store.weights(member.name)
    settings = {
        "classes": len(experiment.dataset.classes),
        "member": member.settings(),
        "seed": experiment.seed,
    }

    def check() -> None:
        check_settings(path, verify(path)["settings"], settings)

    if not is_made(path, check, experiment.config["overwrite"]):
        network = network_for(experiment, member, untrained=True)
        nothing = {"ids": [], "contents": ""}
        write_tensors(path, _own(network.model.state_dict()), settings, history=[], training=nothing)


def _resized(experiment: Experiment, member: Member, records: Sequence[Record], index: int) -> NDArray[np.uint8]:
    """What training crops one of the images from: large enough also for members that see borders in evaluation."""
    return experiment.images.resized(records[index], max(member.resize, member.input_size), member.interpolation)


def _is_trained(
    experiment: Experiment, member: Member, settings: dict[str, Any], training: Sequence[Record], path: Path
) -> bool:
    """Whether a member's weights, or its checkpoint, at ``path`` are of these settings and training images."""

    def check() -> None:
        header = verify(path)
        made = header["settings"]
        if made.get("finetune", {}).get("keep") == "last":  # whatever share was to be held out, none was
            made["finetune"]["validation"] = settings["finetune"]["validation"]
        check_settings(path, {**rule_of_training(member), **made}, settings)
        check_rule(experiment, member, path, made, training, training=True)
        check_training(experiment, path, header)

    return is_made(path, check, experiment.config["overwrite"])


def _own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies: safetensors refuses tensors that share memory, as tied weights do."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _save(path: Path, state: State, settings: dict[str, Any], notes: dict[str, Any]) -> None:
    parts = {"model": state.model, "momentum": state.momentum}
    tensors = _own({f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()})
    write_tensors(path, tensors, settings, epoch=state.epoch, history=state.history, training=notes)


def _restore(path: Path) -> State:
    tensors, header = read_whole(path)
    state = State(epoch=header["epoch"], history=header["history"])
    for key, tensor in tensors.items():
        part, name = key.split("/", 1)
        getattr(state, part)[name] = tensor
    return state


def predict_member(
    experiment: Experiment, member: Member, split: str, records: Sequence[Record], title: str, worklog: Worklog
) -> None:
    """Write a member's probabilities on a split with its own preprocessing, unless they are there already.

    Parameters
    ----------
    experiment, member : what predicts, with its weights.
    split, records : the split's name and images.
    title : what the progress bar says.
    worklog : where it is noted that work has begun.

    Raises InputError naming a member that returns NaN.
    """
    path = experiment.store.predictions(split, member.name)
    settings = prediction_settings(experiment, member, records)

    def check() -> None:
        tensors, header = read_whole(path, "probabilities", "labels")
        check_settings(path, {**rule_of_predictions(member), **header["settings"]}, settings)
        check_predictions(experiment, member, split, header, tensors["labels"])

    if is_made(path, check, experiment.config["overwrite"]):
        return
    worklog.begin()
    network = network_for(experiment, member)
    probabilities = _predict(experiment, network, records, f"{title}: {split} predictions")
    labels = torch.tensor([record.label for record in records])
    predicted = probabilities.argmax(1)
    share, right = accuracy(predicted, labels), xxh3_64_hexdigest((predicted == labels).numpy().tobytes())
    ids = [record.image_id for record in records]
    notes = {"ids": ids, "contents": experiment.inputs.contents(split).of(ids), "accuracy": share, "right": right}
    write_tensors(path, {"probabilities": probabilities, "labels": labels}, settings, **notes)
    if split == "test":
        what = "labels unknown" if np.isnan(share) else f"accuracy {share:.3f}"
        log.info(f"{member.name}: {what}, {len(records)} test images")


def _describe(experiment: Experiment, member: Member) -> None:
    """Write what stands in the headers of a member's weights and predictions as JSON beside the weights."""
    weights = experiment.store.weights(member.name)
    made, tested = read_header(weights), read_header(experiment.store.predictions("test", member.name))
    content = {"history": made["history"], "settings": made["settings"], "accuracy": tested["accuracy"]}
    write_json(weights.with_suffix(".json"), content)


def _predict(experiment: Experiment, network: Network, records: Sequence[Record], title: str) -> torch.Tensor:
    """Softmax probabilities (n, classes), float32; InputError naming a member that returns NaN."""
    member, size = network.member, experiment.config["finetune"]["eval_batch_size"]
    found, at_a_time = [], size
    with counter(title, len(records), "images", experiment.config["progress"]) as count, torch.inference_mode():
        for first in range(0, len(records), size):
            batch = records[first : first + size]
            views = [experiment.images.made(record, pixels_by(member), partial(view, member)) for record in batch]
            crops = torch.from_numpy(np.stack(views))
            compute = partial(_probabilities, network, crops.permute(0, 3, 1, 2))
            probabilities, at_a_time = within_memory(compute, at_a_time, member.name, "finetune.eval_batch_size")
            found.append(probabilities)
            if bad := (~found[-1].isfinite().all(1)).nonzero().flatten().tolist():
                raise InputError(f"member {member.name} returns NaN for image {batch[bad[0]].image_id}")
            count.add(len(batch))
    return torch.cat(found)


def _probabilities(network: Network, images: torch.Tensor, at_a_time: int) -> torch.Tensor:
    """Softmax probabilities (n, classes) on the CPU of uint8 images (n, 3, H, W), some at a time."""
    parts = (network.normalise(part.to(network.device)) for part in images.split(at_a_time))
    return torch.cat([network(part).softmax(1).cpu() for part in parts])


def _plan(
    experiment: Experiment,
    members: Sequence[Member],
    recipe: Recipe,
    training: Sequence[Record],
    records: dict[str, list[Record]],
) -> None:
    """Say what the stage would do and cost, after checking that every member can be built and its weights fit."""
    failures = Failures("finetune")
    new_head, classes = experiment.config["committee"]["finetune"], len(experiment.dataset.classes)
    size, passes, seconds = 0, 0, 0.0
    images = sum(map(len, records.values()))
    for member in members:
        with failures.of(member.name):
            path = experiment.store.weights(member.name)
            settings = weights_settings(experiment, member, recipe, len(training)) if new_head else {}
            to_train = new_head and not member.random
            trained = to_train and _is_trained(experiment, member, settings, training, path)
            ready = with_trained_weights(experiment, member) if trained else member
            network = network_for(experiment, ready, untrained=new_head and not trained)
            steps = recipe.epochs * len(training) if to_train and not trained else 0
            what = "random weights" if member.random else "as it is"
            what = f"to train, {recipe.epochs} epochs of {len(training)} images" if steps else what
            parameters = sum(tensor.numel() for tensor in network.model.parameters())
            estimate = images * seconds_a_pass(network, member.input_size)
            estimate += steps * (seconds_a_pass(network, member.input_size, "weights") if steps else 0)
            size, passes, seconds = size + (4 * parameters if steps else 0), passes + steps, seconds + estimate
            what = "trained already" if trained else what
            log.info(f"  {member.name}: {parameters / 1e6:.2f} M parameters, {what}, about {estimate:.0f} s")
    disk = size + images * classes * 4 * len(members)
    log.info(
        f"finetune would train {passes} forward and backward passes and predict {images} images with each of"
        f" {len(members)} members: about {seconds / 3600:.2f} h on {experiment.device}, {disk / 1e6:.1f} MB on disk"
    )
    failures.report()
