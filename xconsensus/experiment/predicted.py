"""Members' predictions of a split, each with its own preprocessing: made, and read together."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from xconsensus import published
from xconsensus.datasets import Record
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import (
    check_predictions,
    needs,
    prediction_settings,
    predictions,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.networks import network_for
from xconsensus.jobs.memory import within_memory
from xconsensus.jobs.worklog import Worklog
from xconsensus.members import upstream
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.members.preprocessing import pixels_by, rule_of_predictions, view
from xconsensus.progress import counter, log
from xconsensus.scores.accuracy import accuracy
from xconsensus.store.provenance import check_settings
from xconsensus.store.resume import is_made
from xconsensus.store.tensors import read_whole, write_tensors

_VALIDATION_IMAGES = 50_000  # of ImageNet
_AS_PUBLISHED = 0.003  # how far the accuracy of the same weights may lie from the published one


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
    if is_predicted(experiment, member, split, records):
        return
    path = experiment.store.predictions(split, member.name)
    settings = prediction_settings(experiment, member, records)
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
        what = "labels unknown" if np.isnan(share) else f"accuracy {share:.3f}{_published(member, share, len(records))}"
        log.info(f"{member.name}: {what}, {len(records)} test images")


def _published(member: Member, share: float, images: int) -> str:
    """A clause with the accuracies that PaddleClas and Table 2, of an unknown sample, have for a member's weights as
    they are; marked where ``share`` is not PaddleClas's though it is of all of ImageNet's validation images.
    """
    if not member.pretrained or (known := upstream.published_top1(member.library, member.model)) is None:
        return ""
    top1, size = known
    table2 = published.table2("imagenet").set_index("model")["accuracy"].get(member.model, np.nan)
    words = f"published {top1:.3f}" + f" at {size} pixels" * (size != member.input_size)
    words += "" if np.isnan(table2) else f", Table 2 {table2:.3f}"
    as_published = size != member.input_size or images < _VALIDATION_IMAGES or abs(share - top1) <= _AS_PUBLISHED
    return f" ({words}{'' if as_published else ': NOT as published'})"


def is_predicted(experiment: Experiment, member: Member, split: str, records: Sequence[Record]) -> bool:
    """Whether a member's predictions of a split's ``records`` are there, with these weights and settings."""
    path = experiment.store.predictions(split, member.name)

    def check() -> None:
        tensors, header = read_whole(path, "probabilities", "labels")
        settings = prediction_settings(experiment, member, records)
        check_settings(path, {**rule_of_predictions(member), **header["settings"]}, settings)
        check_predictions(experiment, member, split, header, tensors["labels"])

    return is_made(path, check, experiment.config["overwrite"])


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


def test_predictions(experiment: Experiment) -> Iterator[tuple[Tensor, Tensor]]:
    """Each member's probabilities and labels, of the same images in the same order.

    Raises MissingStageError naming an image that only some members predict.
    """
    first: list[str] = []
    for member in experiment.members:
        ids, probabilities, labels = predictions(experiment, "test", with_trained_weights(experiment, member))
        first = first or ids
        if unlike := sorted({*first} ^ {*ids}):
            whose = f"members {experiment.members[0].name} and {member.name}"
            raise needs("finetune", f"only one of {whose} has predicted test image {unlike[0]}", "overwrite=true")
        place = {image_id: row for row, image_id in enumerate(ids)}
        rows = [place[image_id] for image_id in first] if ids != first else slice(None)
        yield probabilities[rows], labels[rows]
