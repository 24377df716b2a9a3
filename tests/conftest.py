"""The command line run in this process, a folder of photographs, and one small committee run through all stages."""

import os

# Threads of GNU's OpenMP spin at barriers, and processes that share cores slow each other three to six times. It reads
# this once, when torch is imported: here and in every process that the tests start.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: threads of small networks only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image

from xconsensus import cli

QUARTET = """\
# Four tiny networks on the drawn data set.
defaults:
  - override /dataset@_global_.dataset: shapes
name: quartet
members:
  resnet: {library: timm, model: resnet10t, input_size: 32, kwargs: {channels: [8, 8, 8, 8], stem_width: 4}}
  efficient: {family: EfficientNet, library: timm, model: test_efficientnet, input_size: 32}
  byob: {family: ByobNet, library: timm, model: test_byobnet, input_size: 32}
  shuffle: {family: ShuffleNet, library: torchvision, model: shufflenet_v2_x0_5, input_size: 32}
"""
SMALL = (
    "threads=1",
    "committee=quartet",
    "dataset.splits.train=48",
    "dataset.splits.test=36",
    "dataset.splits.explain=24",
    "finetune.epochs=2",
    "explain.images=4",
    "explain.only_correct=none",
    "explain.precision=float32",
    "explainer.samples=20",
    "plot.gallery=1",
    "score.bootstrap=50",
)
# Weights that are a function of the seed alone, so that nothing has to be trained or read.
MODULE = """\
import torch
from torch import nn


class Grid(nn.Module):
    '''A linear layer on the image averaged to a grid.'''

    def __init__(self, num_classes=2, seed=0, side=8):
        super().__init__()
        self.side = side
        draws = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(num_classes, 3 * side**2, generator=draws))

    def forward(self, inputs):
        return nn.functional.adaptive_avg_pool2d(inputs, self.side).flatten(1) @ self.weight.T


class Broken(Grid):
    def forward(self, inputs):
        raise RuntimeError("no such layer")


class Late(Grid):
    def forward(self, inputs):
        if len(inputs) > 2:
            raise RuntimeError("too many")
        return super().forward(inputs)


class Worn(Grid):
    calls = 0

    def forward(self, inputs):
        self.calls += 1
        if len(inputs) and self.calls > 8:
            raise RuntimeError("worn out")
        return super().forward(inputs)


class NaN(Grid):
    def forward(self, inputs):
        return super().forward(inputs) * float("nan")
"""
GRIDS = """\
# Networks of one layer that need no training.
defaults:
  - override /dataset@_global_.dataset: imagefolder
name: grids
finetune: false
member_defaults: {{library: module, model: grids.py:Grid}}
weights_dir: {folder}
members:
  first: {{kwargs: {{seed: 1}}}}
  second: {{kwargs: {{seed: 2}}}}
  third: {{kwargs: {{seed: 3}}}}
  fourth: {{kwargs: {{seed: 4}}}}
"""


# Files of few and long tests, which would leave all cores but one idle if they came last; the longest first.
LONG = (
    *("test_slurm", "test_cluster", "test_faults", "test_paper_experiments", "test_training", "test_end_to_end"),
    *("test_paper_data", "test_score", "test_drawn", "test_published_figures", "test_status", "test_dilution"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, then those of most tests; with --no-loadscope-reorder xdist starts them so."""
    tests = Counter(item.path for item in items)
    ranks = {path: LONG.index(path.stem) if path.stem in LONG else len(LONG) for path in tests}
    items.sort(key=lambda item: (ranks[item.path], -tests[item.path], item.path))


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def xconsensus(*arguments: str, environment: dict[str, str] | None = None) -> Outcome:
    """Run ``xconsensus ARGUMENTS`` in this process; an exception that the program does not handle is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch("sys.argv", ["xconsensus", *arguments]),
        patch.dict(os.environ, environment or {}),
        redirect_stdout(out),
        redirect_stderr(err),
        _same_logging(),
        # Hydra composes the config a second time only to look for hydra.mode, which no test sets
        patch.object(Hydra, "get_mode", lambda *_, **__: None),
        patch.object(OmegaConf, "load", _load_once),
    ):
        GlobalHydra.instance().clear()
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        finally:
            GlobalHydra.instance().clear()
    return Outcome(code, out.getvalue(), err.getvalue())


_load = OmegaConf.load
_loaded: dict[str, Any] = {}


def _load_once(file: str | Path | IO[Any]) -> DictConfig | ListConfig:
    """OmegaConf.load, which reads the YAML of a text once: half the time of a call that is refused."""
    text = Path(file).read_text("utf-8") if isinstance(file, str | Path) else file.read()
    if text not in _loaded:
        if not isinstance(file, str | Path):
            file.seek(0)
        _loaded[text] = OmegaConf.to_container(_load(file))
    loaded: DictConfig | ListConfig = OmegaConf.create(_loaded[text])
    return loaded


@contextmanager
def _same_logging() -> Iterator[None]:
    """Hydra disables the loggers it finds, the program replaces its handlers: both are put back."""
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    own = logging.getLogger("xconsensus")
    before = [(logger, logger.disabled) for logger in loggers]
    handlers, level, propagate = own.handlers[:], own.level, own.propagate
    try:
        yield
    finally:
        for logger, disabled in before:
            logger.disabled = disabled
        own.handlers[:], own.propagate, own.disabled = handlers, propagate, False
        own.setLevel(level)


def done(*arguments: str) -> Outcome:
    """``xconsensus``, demanded to succeed."""
    outcome = xconsensus(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait until ``true()`` holds; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def paint(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@dataclass(frozen=True)
class Project:
    """A user's folder: configs, output folder, and the arguments that name them."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def run(self, stage: str, *arguments: str) -> Outcome:
        return xconsensus(stage, *self.arguments, *arguments)

    def done(self, stage: str, *arguments: str) -> Outcome:
        return done(stage, *self.arguments, *arguments)

    def files(self) -> dict[str, bytes]:
        """All but the file of locks, which is empty, the logs of what ran where and when, and photographs' times."""
        found = {str(p.relative_to(self.outputs)): p for p in self.outputs.rglob("*") if p.is_file()}
        others = [n for n in found if Path(n).name == ".locks" or "/status/" in n or "/contents/" in n]
        return {name: path.read_bytes() for name, path in found.items() if name not in others}


def _quartet(folder: Path) -> Project:
    (folder / "conf/committee").mkdir(parents=True)
    (folder / "conf/committee/quartet.yaml").write_text(QUARTET)
    return Project(folder, ("--config-dir", f"{folder}/conf", f"output_dir={folder}/outputs", *SMALL))


@pytest.fixture(scope="session")
def quartet(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The small committee after ``xconsensus run``; tests only read it."""
    project = _quartet(tmp_path_factory.mktemp("quartet"))
    project.done("run")
    return project


@pytest.fixture
def quartet_copy(quartet: Project, tmp_path: Path) -> Project:
    """The small committee's outputs with their times, to change at will."""
    project = _quartet(tmp_path)
    shutil.copytree(quartet.outputs, project.outputs)
    return project


@pytest.fixture
def untrained(tmp_path: Path) -> Project:
    """The small committee before any stage."""
    return _quartet(tmp_path)


@pytest.fixture
def photographs(tmp_path: Path) -> Project:
    """Six photographs of two classes with masks, and a committee that needs no training; no stage has run."""
    return _photographs(tmp_path)


@pytest.fixture(scope="session")
def scored_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = _photographs(tmp_path_factory.mktemp("photographs"))
    for stage in ("finetune", "explain", "vote", "score"):
        project.done(stage)
    return project


@pytest.fixture
def scored(scored_once: Project, photographs: Project) -> Project:
    """The photographs after the stages up to score."""
    shutil.copytree(scored_once.outputs, photographs.outputs)
    return photographs


@pytest.fixture
def voted(scored: Project) -> Project:
    """The photographs after the stages up to vote."""
    shutil.rmtree(scored.outputs / "pets/scores")
    return scored


@pytest.fixture
def explained(voted: Project) -> Project:
    """The photographs after the stages up to explain."""
    shutil.rmtree(voted.outputs / "pets/consensus")
    return voted


@pytest.fixture
def predicted(explained: Project) -> Project:
    """The photographs after finetune."""
    for folder in ("images", "superpixels", "explanations"):
        shutil.rmtree(explained.outputs / "pets" / folder)
    return explained


def _photographs(folder: Path) -> Project:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(3):
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            mask = np.zeros(pixels.shape[:2], np.uint8)
            mask[12:36, 16:40] = 255
            paint(folder / f"images/{name}/{number}.png", pixels)
            paint(folder / f"masks/{name}/{number}.png", mask)
    (folder / "models").mkdir()
    (folder / "models/grids.py").write_text(MODULE)
    (folder / "conf/committee").mkdir(parents=True)
    (folder / "conf/committee/grids.yaml").write_text(GRIDS.format(folder=folder / "models"))
    arguments = (
        "--config-dir",
        f"{folder}/conf",
        "committee=grids",
        f"output_dir={folder}/outputs",
        f"dataset.root={folder}/images",
        f"dataset.masks={folder}/masks",
        "dataset.name=pets",
        "dataset.resize=40",
        "dataset.size=32",
        "threads=1",
        "explain.only_correct=none",
        "explain.precision=float32",
        "explainer.samples=20",
        "score.bootstrap=20",
        "plot.gallery=1",
    )
    return Project(folder, arguments)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Arithmetic this small waits for a second thread longer than it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
