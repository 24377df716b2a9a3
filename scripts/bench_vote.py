"""vote and score of many SmoothGrad maps beside reading the files alone, from cache and disk; the memory they take.

Usage: python scripts/bench_vote.py [MEMBERS IMAGES], 80 and 1000 unless given. Maps are synthetic: about 100 KB each
on disk, 8 GB in all, removed afterwards.
"""

import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from benchmark import config_of, scratch, seconds, show
from omegaconf import DictConfig
from PIL import Image
from safetensors.torch import save_file

from xconsensus.experiment.artefacts import consensus_of, explanations_of, prediction_settings
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.stages import score, vote
from xconsensus.store.files import remove, write_csv
from xconsensus.store.tensors import write_tensors

MODULE = """
from torch import nn

class Mean(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""


def prepare(folder: Path, members: int, images: int) -> DictConfig:
    """Folders as explain and finetune would leave them, with random maps and predictions."""
    photographs = folder / "photographs"
    for number in range(images):
        path = photographs / f"{number % 2}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (folder / "mean.py").write_text(MODULE)
    save_file({"2.weight": torch.zeros(2, 3), "2.bias": torch.zeros(2)}, folder / "mean.safetensors")
    one = {"library": "module", "model": f"{folder}/mean.py:Mean", "weights": f"{folder}/mean.safetensors"}
    specifications = {f"member{number:03}": {"family": "Mean", **one} for number in range(members)}
    overrides = ["dataset=imagefolder", f"dataset.root={photographs}", f"output_dir={folder}/outputs"]
    config = config_of("run", [*overrides, "explainer=smoothgrad", "explain.only_correct=none"], specifications)
    experiment = start(config)
    records = experiment.dataset.records("test")
    rows = [(record.image_id, record.path, record.label) for record in records]
    write_csv(
        experiment.store.images(experiment.committee), pd.DataFrame(rows, columns=["image_id", "path", "label"]), {}
    )
    ids, labels = [record.image_id for record in records], torch.tensor([record.label for record in records])
    generator = torch.Generator().manual_seed(0)
    common = torch.rand(64, experiment.images.size, experiment.images.size, generator=generator)
    for member in experiment.members:
        probabilities = torch.full((len(ids), 2), 0.5)
        path = experiment.store.predictions("test", member.name)
        header = prediction_settings(experiment, member, records)
        write_tensors(path, {"probabilities": probabilities, "labels": labels}, header, ids=ids)
        shards = explanations_of(experiment, member)
        maps = 1e-5 * (common + torch.rand(common.shape, generator=generator))
        for at in range(0, len(ids), 64):
            some = ids[at : at + 64]
            fields = {"reliability": torch.ones(len(some)), "samples": torch.ones(len(some))}
            shards.write(some, list(maps[: len(some)].roll(at // 64, 1)), fields)
    return config


def files(experiment: Experiment) -> list[Path]:
    """Every shard, in the order in which vote and score read them."""
    folders = [explanations_of(experiment, member).folder for member in experiment.members]
    shards = [sorted(folder.iterdir()) for folder in folders]
    return [path for paths in zip(*shards, strict=True) for path in paths]


def read_all(experiment: Experiment) -> None:
    """Read every shard, so that the system's cache has it, as far as that goes."""
    for path in files(experiment):
        path.read_bytes()


def evict(experiment: Experiment) -> None:
    """Make the system's cache forget every shard."""
    for path in files(experiment):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(config: DictConfig, before: Callable[[Experiment], None]) -> list[float]:
    """Seconds of reading, vote and score, each after ``before``."""
    experiment, spent = start(config), []
    remove(consensus_of(experiment).folder)
    for work in (partial(read_all, experiment), partial(vote.run, config), partial(score.run, config)):
        before(experiment)
        spent.append(seconds(work))
    return spent


def main() -> None:
    """Print one table."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    members, images = map(int, sys.argv[1:]) if sys.argv[1:] else (80, 1000)
    with scratch() as folder:
        config = prepare(folder, members, images)
        read_all(start(config))
        started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows = []
        for source, before in (("cache", read_all), ("disk", evict)):
            reading, *stages = measure(config, before)
            rows.append({"from": source, "what": "reading the files", "seconds": reading, "of the reading speed": 1})
            for name, spent in zip(("vote", "score"), stages, strict=True):
                rows.append({"from": source, "what": name, "seconds": spent, "of the reading speed": reading / spent})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        size = sum(path.stat().st_size for path in files(start(config)))
        show(f"{members} members x {images} maps of 224x224, {size / 2**30:.1f} GiB", rows)
        print(f"largest memory {peak:.2f} GiB ({started:.2f} before vote)")


if __name__ == "__main__":
    main()
