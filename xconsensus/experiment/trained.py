"""A member's training from its last finished epoch to weights on the disk."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xconsensus.datasets import Record
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import check_training, training_note, weights_settings
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.networks import network_for
from xconsensus.experiment.rules import check_rule
from xconsensus.jobs.memory import is_out_of_memory
from xconsensus.jobs.worklog import Worklog
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.members.preparing import PROBE, Preparation
from xconsensus.members.preprocessing import rule_of_training
from xconsensus.members.training import Images, Recipe, State, train, whole_pass
from xconsensus.members.weights import head_tensors
from xconsensus.progress import Whole, counter
from xconsensus.store.files import remove
from xconsensus.store.provenance import check_settings
from xconsensus.store.resume import is_made
from xconsensus.store.tensors import read_whole, verify, write_tensors


def train_member(
    experiment: Experiment, member: Member, recipe: Recipe, training: Sequence[Record], whole: Whole, worklog: Worklog
) -> None:
    """Train one member from its last finished epoch, unless it is trained already.

    Parameters
    ----------
    experiment, member, recipe : what is trained, and how.
    training : images to train on.
    whole : the epochs of all members, of which progress tells.
    worklog : where it is noted how far the training is.

    Raises InputError naming the member when memory does not suffice for a batch.
    """
    path, checkpoint = experiment.store.weights(member.name), experiment.store.checkpoint(member.name)
    settings = weights_settings(experiment, member, recipe, len(training))
    notes = training_note(experiment)
    ready = partial(is_trained, experiment, member, settings, training)
    if ready(path):
        remove(checkpoint)
        whole.skip(recipe.epochs)
        return
    worklog.begin()
    usable = experiment.images.usable(training)
    read = partial(_resized, experiment, member, usable)
    images = Images(read, [record.label for record in usable])
    network = network_for(experiment, member, untrained=True)
    state = _restore(checkpoint) if ready(checkpoint) else State()
    prepared = _prepared(network, images, recipe, settings["classes"], state) if recipe.prepare else None
    if prepared and prepared.way == PROBE:
        recipe = replace(recipe, learning_rate=recipe.probed_learning_rate)
    title = f"finetune {member.name}"
    with counter(title, recipe.epochs, "epochs", experiment.config["progress"], whole) as count:
        count.skip(state.epoch)
        try:
            for reached in train(network, images, recipe, experiment.seed, state):
                _save(checkpoint, reached, settings, notes)
                worklog.add(1)
                count.add()
        except InputError:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                reason = f"out of memory in training: lower finetune.batch_size={recipe.batch_size}"
            elif any(frame.f_code is Network.forward.__code__ for frame, _ in walk_tb(error.__traceback__)):
                reason = (
                    f"fails in training on some of the batches of finetune.batch_size={recipe.batch_size}, the last of"
                    f" which may be smaller: {type(error).__name__}: {' '.join(str(error).split())[:300]}; lower that,"
                    " or mend its forward, which must take any number of images"
                )
            else:
                raise
            raise InputError(f"member {member.name}: {reason}") from error
    way = {}
    if prepared:
        prepared.fold()
        way = {"way": prepared.way}
    write_tensors(path, _own(network.model.state_dict()), settings, history=state.history, training=notes, **way)
    remove(checkpoint)


def _prepared(network: Network, images: Images, recipe: Recipe, classes: int, state: State) -> Preparation:
    """The network of so many classes made ready to be trained, or to go on from a ``state``."""
    prepared = Preparation(network, head_tensors(network.member, classes))
    if not state.epoch:
        prepared.fit(partial(whole_pass, network, images, recipe.batch_size))
    return prepared


def draw_member(experiment: Experiment, member: Member) -> None:
    """Write the random weights that a member keeps, unless they are there already."""
    path = experiment.store.weights(member.name)
    settings = {"classes": len(experiment.dataset.classes), "member": member.settings(), "seed": experiment.seed}

    def check() -> None:
        check_settings(path, verify(path)["settings"], settings)

    if not is_made(path, check, experiment.config["overwrite"]):
        network = network_for(experiment, member, untrained=True)
        nothing = {"ids": [], "contents": ""}
        write_tensors(path, _own(network.model.state_dict()), settings, history=[], training=nothing)


def _resized(experiment: Experiment, member: Member, records: Sequence[Record], index: int) -> NDArray[np.uint8]:
    """What training crops one of the images from: large enough also for members that see borders in evaluation."""
    return experiment.images.resized(records[index], max(member.resize, member.input_size), member.interpolation)


def is_trained(
    experiment: Experiment, member: Member, settings: dict[str, Any], training: Sequence[Record], path: Path
) -> bool:
    """Whether a member's weights, or its checkpoint, are of these settings and training images.

    Parameters
    ----------
    experiment, member : whose they should be.
    settings, training : of what.
    path : the weights or the checkpoint.
    """

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
    write_tensors(path, tensors, settings, epoch=state.epoch, history=state.history, scale=state.scale, training=notes)


def _restore(path: Path) -> State:
    tensors, header = read_whole(path)
    state = State(epoch=header["epoch"], history=header["history"], scale=header.get("scale", {}))
    for key, tensor in tensors.items():
        part, name = key.split("/", 1)
        getattr(state, part)[name] = tensor
    return state
