"""The real program in a process of its own: killed at any moment, on a full or read-only disk, in odd folders."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, Project
from forks import Ended, Forks, forks

from xconsensus.store.processes import HOST

STAGES = ("finetune", "explain", "vote", "score")
EVERY_STAGE = (*STAGES, "plot")
# how many of each stage; make test-faults sets it to 8
KILLS = int(os.environ.get("KILLS", "2"))
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
    own = ("committee=pair", f"output_dir={folder}/outputs", *few)
    return (stage, "--config-dir", f"{folder}/conf", *SMALL, *own)


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the one that holds locks; logs of how runs went, which have times in them, as names alone."""
    found = (path for path in (folder / "outputs").rglob("*") if path.is_file() and path.name != ".locks")
    return {str(path.relative_to(folder)): b"" if "status" in path.parts else path.read_bytes() for path in found}


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
                moment: dict[str, Any] = {"seconds": float(rng.uniform(0, 2 * whole.seconds / KILLS))}
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


# --- the disk ---


class Disk:
    """A file system of its own in memory, mounted on the output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave no room."""
        found = os.statvfs(self.folder)
        self.remount(f"size={max(1, found.f_blocks - found.f_bfree) * found.f_frsize}")


@pytest.fixture
def disk(photographs: Project) -> Iterator[Disk]:
    photographs.outputs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(photographs.outputs)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield Disk(photographs.outputs)
    subprocess.run(["umount", str(photographs.outputs)], check=True)


def refused(ended: Ended, *culprits: str) -> None:
    assert ended.code == 2, ended.output
    lines = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.output
    assert "Traceback" not in ended.output
    assert [culprit for culprit in culprits if culprit not in lines[0]] == [], lines


def with_stage(project: Project, stage: str) -> tuple[str, ...]:
    """A stage's words; plot draws one figure, as all take the same way to the disk."""
    return (stage, *project.arguments, *(("explainers=[lime]", "plot.figures=[fig05]") if stage == "plot" else ()))


def test_a_full_disk_stops_each_stage_in_a_line_and_harms_nothing(
    photographs: Project, disk: Disk, runs: Forks
) -> None:
    for stage in EVERY_STAGE:
        before = photographs.files()
        disk.fill()
        refused(runs.run(*with_stage(photographs, stage)), "no space left", str(photographs.outputs))
        now = photographs.files()
        assert {name: now[name] for name in before} == before
        assert not [name for name in now if name.endswith(".tmp")]
        disk.remount("size=64m")
        ended = runs.run(*with_stage(photographs, stage))
        assert ended.code == 0, ended.output


def test_a_read_only_folder_stops_each_stage_in_a_line(photographs: Project, disk: Disk, runs: Forks) -> None:
    for stage in EVERY_STAGE:
        before = photographs.files()
        disk.remount("ro")
        refused(runs.run(*with_stage(photographs, stage)), str(photographs.outputs), "Read-only")
        assert photographs.files() == before
        disk.remount("rw")
        ended = runs.run(*with_stage(photographs, stage))
        assert ended.code == 0, ended.output
    disk.remount("ro")  # what needs no writing works
    for words in (
        ("ls",),
        ("explain", "--help"),
        ("--version",),
        (*with_stage(photographs, "status"), "explainers=[lime]"),
    ):
        ended = runs.run(*words)
        assert ended.code == 0, ended.output
    refused(runs.run(*with_stage(photographs, "plot")[:-1], "plot.figures=[fig99]"), "fig99")
    for stage in EVERY_STAGE:
        for more in ((), ("dry_run=true",))[stage == "plot" :]:
            ended = runs.run(*with_stage(photographs, stage), *more)
            assert ended.code == 0, ended.output
    disk.remount("rw")
    (photographs.outputs / "pets/explanations/lime/first" / f".0f.{HOST}.4194304.tmp").write_bytes(b"")
    disk.remount("ro")
    refused(runs.run(*with_stage(photographs, "explain"), "seed=1", "overwrite=true"), "Read-only")


@pytest.mark.parametrize(
    ("before", "stage", "place"),
    [
        ("photographs", "finetune", "predictions"),
        ("predicted", "explain", "images"),
        ("predicted", "explain", "superpixels"),
        ("predicted", "explain", "explanations/lime"),
        ("explained", "vote", "consensus"),
        ("voted", "score", "scores/grids"),
        ("scored", "plot", "figures"),
        ("scored", "plot", "tables"),
    ],
)
def test_a_file_where_a_folder_should_be_is_named(
    request: pytest.FixtureRequest, before: str, stage: str, place: str
) -> None:
    project: Project = request.getfixturevalue(before)
    path = project.outputs / "pets" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    there = project.files()
    outcome = project.run(stage, *(("explainers=[lime]", "plot.figures=[fig05]") if stage == "plot" else ()))
    assert outcome.code == 2, outcome.err
    assert [str(path) in line for line in outcome.errors] == [True]
    now = project.files()
    assert {name: now[name] for name in there} == there


# --- where things lie, and when they were written ---

QUOTES = 'it\'s "quoted" $x^2_{ #%&~'
PLACES = {
    "spaces": "a  folder with spaces",
    "unicode": "Größe 図 \N{ROCKET} é",
    "quotes": QUOTES,
    "long": "/".join(["a folder of a long name " + "x" * 40] * 5),
    "symbolic links": "target",
}


def quoted(value: str) -> str:
    """A value as Hydra's grammar takes any text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.mark.parametrize("place", PLACES)
def test_folders_of_any_name_work(photographs: Project, runs: Forks, place: str) -> None:
    folder = photographs.folder / "elsewhere" / PLACES[place]
    folder.mkdir(parents=True)
    for name in ("conf", "images", "masks", "models"):
        shutil.move(photographs.folder / name, folder / name)
    for name in ("images", "masks"):
        (folder / name / "cat").rename(folder / name / PLACES[place].split("/")[-1])
    if place == "symbolic links":
        (folder / "kept").mkdir()
        (folder / "outputs").symlink_to(folder / "kept")
        link = photographs.folder / "link"
        link.symlink_to(folder)
        folder = link
    paths = {
        "output_dir": folder / "outputs",
        "dataset.root": folder / "images",
        "dataset.masks": folder / "masks",
        "committee.weights_dir": folder / "models",
    }
    given = [f"{key}={quoted(str(path))}" for key, path in paths.items()]
    own = [word for word in photographs.arguments if str(photographs.folder) not in word and word != "--config-dir"]
    for stage in EVERY_STAGE:
        extra = ("explainers=[lime]", "plot.figures=[fig01,fig03,fig05]") if stage == "plot" else ()
        ended = runs.run(stage, "--config-dir", f"{folder}/conf", *own, *given, *extra)
        assert ended.code == 0, ended.output
    assert (folder / "outputs/pets/figures/grids/fig05.png").is_file()
    assert len(str(folder)) > 200 or place != "long"


@pytest.mark.parametrize("name", ["with  spaces", "Größe 図", QUOTES, "x" * 180])
def test_members_and_committees_of_any_name_work(photographs: Project, name: str) -> None:
    config = photographs.folder / "conf/committee/grids.yaml"
    text = config.read_text().replace("second:", f"{json.dumps(name)}:")
    config.write_text(text.replace("name: grids", f"name: {json.dumps(name)}"))
    kinds = ("explainers=[lime]", "plot.figures=[fig01,fig05,fig14,pairs]")  # one of each that names members
    for stage in EVERY_STAGE:
        photographs.done(stage, f"dataset.name={quoted(name)}", *(kinds if stage == "plot" else ()))
    assert (photographs.outputs / name / "tables" / name / "table2.tex").is_file()


@pytest.mark.parametrize("year", [1971, 2150])
def test_times_of_files_mean_nothing(scored: Project, year: int) -> None:
    moment, expected = (year - 1970) * 365 * 86400, scored.files()
    for path in scored.folder.rglob("*"):
        os.utime(path, (moment, moment))
    for stage in STAGES:
        scored.done(stage)
    assert scored.files() == expected
    shards = [*scored.outputs.glob("pets/explanations/**/*.safetensors")]
    assert len(shards) == 4
    assert {path.stat().st_mtime for path in shards} == {moment}
