"""finetune: train each member if the committee is to be trained, and write every member's predictions."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from xconsensus.datasets import Record
from xconsensus.datasets.images import center_crop
from xconsensus.errors import InputError
from xconsensus.jobs.failures import Failures
from xconsensus.jobs.memory import is_out_of_memory, release_freed_memory, within_memory
from xconsensus.jobs.worklog import Work
from xconsensus.members.costs import seconds_a_pass
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.members.training import Images, Recipe, State, train
from xconsensus.progress import counter, log
from xconsensus.scores.accuracy import accuracy
from xconsensus.seeding import seed_of
from xconsensus.stages.context import Context
from xconsensus.stages.sharding import own_members
from xconsensus.store.files import remove, write_json
from xconsensus.store.locks import claimed
from xconsensus.store.provenance import check_settings
from xconsensus.store.tensors import read_header, read_whole, verify, write_tensors


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    context = Context(config)
    recipe = _recipe(context)
    members = own_members(context)
    splits = dict.fromkeys(["test", context.explain_split])
    records = {split: context.readable(context.dataset.records(split)) for split in splits}
    training = context.dataset.records("train") if context.finetune else []
    if any(record.label < 0 for record in training):
        raise InputError("labels of training images are unknown: set committee.finetune=false, or dataset.labels")
    if context.dry_run:
        _plan(context, members, recipe, training, records)
        return
    failures = Failures("finetune", partial(context.work, "finetune"))
    members.sort(key=lambda member: failures.deaths(member.name))
    units = [(context.store.weights(member.name), (number, member)) for number, member in enumerate(members, 1)]
    for number, member in claimed(context.store.root, units):
        title = f"finetune {member.name} ({number}/{len(members)})"
        with failures.of(member.name) as work:
            if context.finetune:
                _train_member(context, member, recipe, training, title, work)
            for split in splits:
                _predict_member(context, context.ready(member), split, records[split], title, work)
            if context.finetune:
                _describe(context, member)
        release_freed_memory()
    failures.report()
    log.info(f"finetune: {len(members)} members ready, their predictions written")


def _recipe(context: Context) -> Recipe:
    values = {key: value for key, value in context.config["finetune"].items() if key in Recipe.__annotations__}
    if values["precision"] == "auto":
        on_gpu = context.device.type == "cuda" and torch.cuda.is_bf16_supported()
        values["precision"] = "bfloat16" if on_gpu else "float32"
    return Recipe(**values)


def _settings(context: Context, member: Member, recipe: Recipe, images: int) -> dict[str, Any]:
    """What shapes a member's weights."""
    initial = member.settings()
    return {
        "dataset": context.image_settings,
        "training_images": images,
        "classes": len(context.dataset.classes),
        "member": initial,
        "finetune": recipe.settings(),
        "seed": context.seed,
    }


def _train_member(
    context: Context, member: Member, recipe: Recipe, training: list[Record], title: str, work: Work
) -> None:
    """Train one member from its last finished epoch, unless it is trained already."""
    path, checkpoint = context.store.weights(member.name), context.store.checkpoint(member.name)
    settings = _settings(context, member, recipe, len(training))
    if _made(context, path, settings):
        remove(checkpoint)
        return
    work.begin()
    training = context.readable(training)
    images = Images(lambda i: context.pixels(training[i], member.resize), [record.label for record in training])
    torch.manual_seed(seed_of(context.seed, member.name, "weights"))
    network = context.network(member)
    state = _restore(checkpoint) if _made(context, checkpoint, settings) else State()
    with counter(title, recipe.epochs, "epochs", context.progress) as count:
        count.add(state.epoch)
        try:
            for reached in train(network, images, recipe, context.seed, state):
                _save(checkpoint, reached, settings)
                work.add(1)
                count.add()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory in training: lower finetune.batch_size={recipe.batch_size}"
            raise InputError(f"member {member.name}: {reason}") from error
    write_tensors(path, _own(network.model.state_dict()), settings, history=state.history)
    remove(checkpoint)


def _made(context: Context, path: Path, settings: dict[str, Any]) -> bool:
    def check() -> None:
        check_settings(path, verify(path)["settings"], settings)

    return context.usable(path, check)


def _own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies: safetensors refuses tensors that share memory, as tied weights do."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _save(path: Path, state: State, settings: dict[str, Any]) -> None:
    parts = {"model": state.model, "momentum": state.momentum}
    tensors = _own({f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()})
    write_tensors(path, tensors, settings, epoch=state.epoch, history=state.history)


def _restore(path: Path) -> State:
    tensors, header = read_whole(path)
    state = State(epoch=header["epoch"], history=header["history"])
    for key, tensor in tensors.items():
        part, name = key.split("/", 1)
        getattr(state, part)[name] = tensor
    return state


def _predict_member(
    context: Context, member: Member, split: str, records: list[Record], title: str, work: Work
) -> None:
    """Write the member's probabilities on a split with its own preprocessing, unless they are there already."""
    path = context.store.predictions(split, member.name)
    settings = context.prediction_settings(member, records)
    if _made(context, path, settings):
        return
    work.begin()
    network = context.network(member)
    probabilities = _predict(context, network, records, f"{title}: {split} predictions")
    labels = torch.tensor([record.label for record in records])
    share = accuracy(probabilities.argmax(1), labels)
    ids = [record.image_id for record in records]
    write_tensors(path, {"probabilities": probabilities, "labels": labels}, settings, ids=ids, accuracy=share)
    if split == "test":
        what = "labels unknown" if np.isnan(share) else f"accuracy {share:.3f}"
        log.info(f"{member.name}: {what}, {len(records)} test images")


def _describe(context: Context, member: Member) -> None:
    """Write what stands in the headers of a member's weights and predictions as JSON beside the weights."""
    weights = context.store.weights(member.name)
    made, tested = read_header(weights), read_header(context.store.predictions("test", member.name))
    content = {"history": made["history"], "settings": made["settings"], "accuracy": tested["accuracy"]}
    write_json(weights.with_suffix(".json"), content)


def _predict(context: Context, network: Network, records: list[Record], title: str) -> torch.Tensor:
    """Softmax probabilities (n, classes), float32; InputError naming a member that returns NaN."""
    member, size = network.member, context.config["finetune"]["eval_batch_size"]
    found, at_a_time = [], size
    with counter(title, len(records), "images", context.progress) as count, torch.inference_mode():
        for start in range(0, len(records), size):
            batch = records[start : start + size]
            crops = [center_crop(context.pixels(record, member.resize), member.input_size) for record in batch]
            compute = partial(_probabilities, network, torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))
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
    context: Context, members: list[Member], recipe: Recipe, training: list[Record], records: dict[str, list[Record]]
) -> None:
    """Say what the stage would do and cost, after checking that every member can be built and its weights fit."""
    failures = Failures("finetune")
    size, passes, seconds = 0, 0, 0.0
    images = sum(map(len, records.values()))
    for member in members:
        with failures.of(member.name):
            path = context.store.weights(member.name)
            trained = context.finetune and _made(context, path, _settings(context, member, recipe, len(training)))
            network = context.rehearsal(context.ready(member) if trained else member)
            steps = recipe.epochs * len(training) if context.finetune and not trained else 0
            what = f"to train, {recipe.epochs} epochs of {len(training)} images" if steps else "as it is"
            parameters = sum(tensor.numel() for tensor in network.model.parameters())
            estimate = images * seconds_a_pass(network, member.input_size)
            estimate += steps * (seconds_a_pass(network, member.input_size, "weights") if steps else 0)
            size, passes, seconds = size + (4 * parameters if steps else 0), passes + steps, seconds + estimate
            what = "trained already" if trained else what
            log.info(f"  {member.name}: {parameters / 1e6:.2f} M parameters, {what}, about {estimate:.0f} s")
    disk = size + images * len(context.dataset.classes) * 4 * len(members)
    log.info(
        f"finetune would train {passes} forward and backward passes and predict {images} images with each of"
        f" {len(members)} members: about {seconds / 3600:.2f} h on {context.device}, {disk / 1e6:.1f} MB on disk"
    )
    failures.report()
