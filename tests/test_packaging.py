"""The wheel, installed alone in an empty folder, is the whole program."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the package from a freshly built wheel."""
    pytest.importorskip("build", reason="build is not installed: make test installs it")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("conf", "xconsensus"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python = [sys.executable, "-m"]
    subprocess.run([*python, "build", "--wheel", "--no-isolation", "--outdir", folder, source], check=True)
    wheel = next(folder.glob("*.whl"))
    target = folder / "site"
    subprocess.run([*python, "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    return target


def command(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, site / "bin" / "xconsensus", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_lowest_versions_are_the_bounds_of_the_package_and_of_its_tests() -> None:
    command = [sys.executable, str(ROOT / "scripts/lowest.py")]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    needed = [Requirement(line) for line in importlib.metadata.requires("xconsensus") or []]
    needed = [each for each in needed if not each.marker or each.marker.evaluate({"extra": "test"})]
    assert {line.split("==")[0] for line in found} == {each.name for each in needed}
    for each in needed:
        (version,) = (line.split("==")[1] for line in found if line.split("==")[0] == each.name)
        assert each.specifier.contains(version)
        assert f">={version}" in str(each.specifier)


@pytest.mark.parametrize("target", ["test-lowest", "test-authors"])
def test_what_takes_long_is_tried_weekly_and_never_by_a_change(target: str) -> None:
    workflow = (ROOT / f".github/workflows/{target.removeprefix('test-')}.yml").read_text()
    assert f"make {target}" in workflow
    assert "schedule:" in workflow
    assert "push" not in workflow
    assert "pull_request" not in workflow
    for path in (".ci/run", ".github/workflows/ci.yml"):
        assert target not in (ROOT / path).read_text()


def test_wheel_brings_every_module(installed: Path) -> None:
    """The other tests cannot see one that is missing: the checkout, installed beside, lends it."""
    shipped = {
        path.relative_to(installed) for path in (installed / "xconsensus").rglob("*.py") if "conf" not in path.parts
    }
    assert shipped == {path.relative_to(ROOT) for path in (ROOT / "xconsensus").rglob("*.py")}


def test_wheel_brings_the_config(installed: Path, tmp_path: Path) -> None:
    shipped = {path.relative_to(installed / "xconsensus" / "conf") for path in installed.rglob("conf/**/*.yaml")}
    assert shipped == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    where = [sys.executable, "-c", "import xconsensus; print(xconsensus.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    imported = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(imported.stdout.strip()).is_relative_to(installed)
    result = command(installed, tmp_path, "ls", "committees")
    assert "tiny" in result.stdout, result.stderr


def test_wheel_brings_its_licence(installed: Path) -> None:
    information = next(installed.glob("xconsensus-*.dist-info"))
    assert (information / "licenses/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "License-Expression: Apache-2.0" in (information / "METADATA").read_text().splitlines()


def test_wheel_runs_a_stage_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    arguments = ("experiment=smoke", "committee.only=[resnet10_w4_32]", "dataset.splits.train=24")
    result = command(installed, tmp_path, "finetune", *arguments, "dataset.splits.test=24", "dataset.splits.explain=12")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "outputs/smoke/weights/resnet10_w4_32.safetensors").is_file()
    assert "Warning" not in result.stderr
