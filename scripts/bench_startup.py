"""What a large run costs before its first image: seconds and peak memory of the start of explain, vote and score.

Usage: python scripts/bench_startup.py [MEMBERS IMAGES]. By default 200 members and 100,000 images in shards of 64.
Members are one layer, images 8x8 pixels: what is left is listing, reading headers, checking settings and checksums.
"""

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import torch
from benchmark import config_of, scratch, show
from omegaconf import DictConfig, OmegaConf

from xconsensus.experiment.artefacts import consensus_of, explained_images, explanations_of
from xconsensus.experiment.choosing import choose_images
from xconsensus.experiment.experiment import start
from xconsensus.experiment.explanations import IMAGES_AT_A_TIME
from xconsensus.stages import explain, finetune, score, vote
from xconsensus.store.shards import Shards

CODE = """
import numpy as np
from torch import nn
from xconsensus.datasets import Record

class Many:
    has_masks = False
    classes = ("a", "b")
    def __init__(self, images):
        self.images = images
    def records(self, split):
        count = self.images if split == "many" else 4
        return [Record(f"folder/{number:08}.jpg", number % 2) for number in range(count)]
    def image(self, record):
        return np.full((8, 8, 3), len(record.image_id), np.uint8)
    mask = None

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.ones_(self.linear.weight)
    def forward(self, inputs):
        return self.linear(inputs.mean((2, 3)))
"""
# what is measured: a stage, until it calls what works on the first image
CASES = {
    "explain, to the first image": (explain, "_explain"),
    "explain, all is there": (explain, "_explain"),
    "vote, to the first image": (vote, "consensus"),
    "score, to the first image": (score, "_compare"),
}


class FirstImage(BaseException):
    """Raised where the first image would be worked on; no failure of a member, so the stage ends there."""


def config(folder: Path, members: int, images: int, stage: str, *more: str, split: str = "many") -> DictConfig:
    """The config of a stage."""
    (folder / "many.py").write_text(CODE)
    specification = {"library": "module", "model": f"{folder}/many.py:Layer", "family": "layer"}
    few = ["explainer=smoothgrad", "explainer.samples=2", "explain.only_correct=none", "explain.images=null"]
    names = [f"member{number:04}" for number in range(members)]
    made = config_of(stage, [f"output_dir={folder}/outputs", *few, *more], dict.fromkeys(names, specification))
    loader = f"{folder}/many.py:Many"
    dataset = {"name": "many", "loader": loader, "images": images, "explain_split": split, "size": 8, "resize": 8}
    OmegaConf.update(made, "dataset", dataset, merge=False)
    return made


def build(folder: Path, members: int, images: int) -> int:
    """Everything that finetune and explain would leave, each file once and linked; how many files there are."""
    finetune.run(config(folder, members, images, "finetune", split="test"))
    experiment = start(config(folder, members, images, "explain"))
    records = choose_images(experiment)
    first = explanations_of(experiment, experiment.members[0])
    size = experiment.config["explain"]["shard_images"]
    with patch("os.fsync"), patch.object(Shards, "refresh"):
        for at in range(0, len(records), size):
            ids = [record.image_id for record in records[at : at + size]]
            fields = {
                "predicted": torch.zeros(len(ids), dtype=torch.int64),
                "probability": torch.ones(len(ids)).double(),
            }
            first.write(ids, [torch.ones(8, 8)] * len(ids), fields, precision="float32")
    files = sorted(first.folder.iterdir())
    for member in experiment.members[1:]:
        other = explanations_of(experiment, member).folder
        other.mkdir(parents=True)
        for path in files:
            os.link(path, other / path.name)
    return len(files) * members


def measure(case: str, folder: Path, members: int, images: int) -> dict[str, object]:
    """Seconds and memory of one case, in a process of its own."""
    command = [sys.executable, __file__, str(members), str(images), case, str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def run(case: str, folder: Path, members: int, images: int) -> None:
    """Print the seconds and memory of one case as JSON."""
    stage, works = CASES[case]
    more = ["explainer.name=other"] if case == "explain, to the first image" else []
    made = config(folder, members, images, stage.__name__.rpartition(".")[2], *more)
    before, started = _peak(), time.perf_counter()
    with patch.object(stage, works, side_effect=FirstImage), suppress(FirstImage):
        stage.run(made)
    print(json.dumps({"seconds": time.perf_counter() - started, "MiB more": (_peak() - before) / 1024}))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Build, then measure each case."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    members, images = (int(word) for word in (sys.argv[1:3] if len(sys.argv) > 2 else (200, 100_000)))
    if len(sys.argv) > 3:
        run(sys.argv[3], Path(sys.argv[4]), members, images)
        return
    with scratch() as folder:
        files = build(folder, members, images)
        # vote writes nothing here: score's start is measured with a consensus that is there
        rows = [
            {"case": case, **measure(case, folder, members, images)} for case in CASES if not case.startswith("score")
        ]
        experiment = start(config(folder, members, images, "vote"))
        ids = [record.image_id for record in explained_images(experiment)]
        consensus = consensus_of(experiment)
        with patch("os.fsync"), patch.object(Shards, "refresh"):
            for at in range(0, len(ids), IMAGES_AT_A_TIME):
                some = ids[at : at + IMAGES_AT_A_TIME]
                consensus.write(some, [torch.ones(8, 8)] * len(some))
        case = "score, to the first image"
        rows.append({"case": case, **measure(case, folder, members, images)})
        show(f"{members} members, {images} images, {files} files of explanations", rows)


if __name__ == "__main__":
    main()
