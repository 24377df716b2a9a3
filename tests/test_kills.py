"""kill -9 at any moment of a stage: the same command then ends with the files of an undisturbed run, and no others."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from forks import Forks, forks

STAGES = ("finetune", "explain", "vote", "score")
# how many of each stage; make test-faults sets it to 8
KILLS = int(os.environ.get("KILLS", "3"))
PAIR = """\
# Two tiny networks on the drawn data set.
defaults:
  - override /dataset@_global_.dataset: shapes
name: pair
members:
  byob: {family: ByobNet, library: timm, model: test_byobnet, input_size: 32}
  resnet: {library: timm, model: resnet10t, input_size: 32, kwargs: {channels: [8, 8, 8, 8], stem_width: 4}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "conf/committee").mkdir(parents=True)
    (folder / "conf/committee/pair.yaml").write_text(PAIR)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> Iterator[Forks]:
    with forks(folder) as started:
        yield started


def arguments(folder: Path, stage: str) -> tuple[str, ...]:
    few = ("dataset.splits.train=24", "dataset.splits.test=12", "explain.images=6", "explain.shard_images=2")
    own = ("committee=pair", f"output_dir={folder}/outputs", *few, "finetune.keep=best", "finetune.validation=0.25")
    return (stage, "--config-dir", f"{folder}/conf", *SMALL, *own)


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the one that holds locks."""
    found = (path for path in (folder / "outputs").rglob("*") if path.is_file() and path.name != ".locks")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_stage_killed_at_any_moment_ends_like_an_undisturbed_one(folder: Path, runs: Forks) -> None:
    rng = np.random.default_rng(0)
    for stage in STAGES:
        before = folder / f"before_{stage}"
        shutil.copytree(folder / "outputs", before) if (folder / "outputs").exists() else before.mkdir()
        whole = runs.run(*arguments(folder, stage))
        assert whole.code == 0, whole.output
        assert whole.operations >= 4
        expected, kills = files(folder), 0
        _restore(folder, before)
        while kills < KILLS:  # each on what the last one left
            if kills % 2:
                moment = {"seconds": float(rng.uniform(0, 2 * whole.seconds / KILLS))}
            else:
                moment = {"operation": int(rng.integers(1, max(3, 2 * whole.operations // KILLS) + 1))}
            ended = runs.run(*arguments(folder, stage), **moment)
            assert ended.code in (0, -9), ended.output
            kills += ended.code == -9
            if ended.code == 0:
                same(files(folder), expected)
                _restore(folder, before)
        last = runs.run(*arguments(folder, stage))
        assert last.code == 0, last.output
        same(files(folder), expected)


def _restore(folder: Path, before: Path) -> None:
    shutil.rmtree(folder / "outputs")
    shutil.copytree(before, folder / "outputs")
