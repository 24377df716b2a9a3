"""xconsensus doctor: each line says what works here, or what is wrong and what to do, and the exit code sums them up."""

import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Project, xconsensus
from matplotlib import font_manager

from xconsensus.errors import InputError
from xconsensus.jobs import surroundings as here
from xconsensus.jobs.launchers import EXTRAS
from xconsensus.jobs.surroundings import MISSING, NOTE, OK, WRONG
from xconsensus.members import at_hand
from xconsensus.members.fetching import OFFLINE
from xconsensus.members.member import members_of
from xconsensus.stages import doctor

MACHINE = ["system", "packages", "device", "arithmetic", "memory", "threads", "downloads", "disk", "locks"]
MACHINE += ["fonts", "launchers"]
Lines = dict[str, dict[str, str]]


def examined(project: Project, *arguments: str) -> tuple[int, Lines]:
    """Exit code and lines by what they are about."""
    outcome = project.run("doctor", "--json", *arguments)
    assert outcome.err == ""
    found = json.loads(outcome.out)
    assert found["exit_code"] == outcome.code
    return outcome.code, {line["what"]: line for line in found["lines"]}


def test_a_healthy_machine_and_all_data_give_exit_code_0(photographs: Project) -> None:
    code, lines = examined(photographs)
    assert code == 0
    assert list(lines) == [*MACHINE, "config", "images", "masks", "weights"]
    assert {line["state"] for line in lines.values()} <= {OK, NOTE}
    assert "6 of test" in lines["images"]["found"]
    assert lines["masks"]["found"] == "of 6 images"
    assert lines["weights"]["found"] == "of 4 members"
    assert not photographs.outputs.exists()


def test_text_has_the_same_lines_with_what_to_do(photographs: Project) -> None:
    lines = examined(photographs)[1].values()
    text = photographs.run("doctor").out.splitlines()
    assert [line.split(maxsplit=1)[0] for line in text] == [line["state"] for line in lines]
    for printed, line in zip(text, lines, strict=True):
        assert printed.split(maxsplit=1)[1].startswith(f"{line['what']}: ")
        if line["what"] not in ("memory", "disk"):  # which change meanwhile
            assert printed.endswith(line["found"] + f"; {line['advice']}" * bool(line["advice"]))


def test_missing_images_masks_and_weights_give_exit_code_3(photographs: Project) -> None:
    masks = sorted((photographs.folder / "masks").rglob("*.png"))
    masks[0].unlink()
    member = "committee.members.first.weights=gone.safetensors"
    code, lines = examined(photographs, f"+{member}")
    assert code == 3
    assert lines["masks"]["state"] == lines["weights"]["state"] == MISSING
    assert "1 of 6 images have none" in lines["masks"]["found"]
    assert masks[0].stem in lines["masks"]["advice"]
    assert "1 of 4 members' are not here: first" in lines["weights"]["found"]
    assert "gone.safetensors" in lines["weights"]["advice"]
    shutil.rmtree(photographs.folder / "photographs", ignore_errors=True)
    code, lines = examined(photographs, "dataset.root=nowhere")
    assert code == 3
    assert lines["images"]["state"] == MISSING
    assert "nowhere" in lines["images"]["found"]
    assert "masks" not in lines  # it would say the same


def test_an_image_that_an_own_list_names_and_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from xconsensus.datasets import Record\n"
        "class Own:\n"
        "    classes, has_masks, image, mask = ('a', 'b'), False, None, None\n"
        "    def __init__(self, root): self.root = root\n"
        "    def records(self, split): return [Record(n, 0, f'{self.root}/{n}') for n in ('a.png', 'own.py')]\n"
    )
    values = {
        "dataset": {"loader": f"{tmp_path}/own.py:Own", "root": str(tmp_path), "explain_split": "test"},
        "committee": {"finetune": False},
    }
    state, found, _ = doctor._images(values)
    assert state == MISSING
    assert f"1 image files, the first {tmp_path}/a.png" in found


def test_no_masks_are_a_note(photographs: Project) -> None:
    code, lines = examined(photographs, "dataset.masks=null")
    assert (code, lines["masks"]["state"]) == (0, NOTE)
    assert "average precision" in lines["masks"]["advice"]


def test_a_config_that_cannot_be_is_wrong_and_the_machine_is_examined_all_the_same() -> None:
    outcome = xconsensus("doctor", "--json", "experiment=cub")
    lines = {line["what"]: line for line in json.loads(outcome.out)["lines"]}
    assert outcome.code == 2
    assert lines["config"]["state"] == WRONG
    assert "root is not set" in lines["config"]["found"]
    assert list(lines) == [*MACHINE, "config"]


def test_an_unknown_key_is_answered_as_in_every_stage() -> None:
    outcome = xconsensus("doctor", "sead=1")
    assert outcome.code == 2
    assert "nearest: seed" in outcome.out


def test_wrong_counts_more_than_missing(photographs: Project) -> None:
    code, lines = examined(photographs, "device=cuda:77", "dataset.root=nowhere")
    assert code == 2
    assert (lines["device"]["state"], lines["images"]["state"]) == (WRONG, MISSING)
    assert "arithmetic" not in lines  # the same device
    assert "device=cpu" in lines["device"]["found"]


def test_a_torch_that_cannot_be_imported_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')\n")
    code = "import sys; sys.argv[1:] = ['doctor', '--json']; from xconsensus.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    outcome = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome.returncode == 2, outcome.stderr
    lines = {line["what"]: line for line in json.loads(outcome.stdout)["lines"]}
    assert lines["packages"]["state"] == WRONG
    assert "libcudart.so.12" in lines["packages"]["found"]
    assert "docs/install.md" in lines["packages"]["advice"]
    assert lines["disk"]["state"] == OK


# --- one check each ---


def raising(error: Exception) -> Callable[[], tuple[str, ...]]:
    def check() -> tuple[str, ...]:
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "state", "found"),
    [
        (InputError("data: no such file"), MISSING, "data: no such file"),
        (InputError("data: no such file or folder; get it"), MISSING, "data: no such file or folder; get it"),
        (InputError("a: no such member"), WRONG, "a: no such member"),
        (RuntimeError("two\nlines"), WRONG, "RuntimeError: two lines"),
    ],
)
def test_what_a_check_raises_is_a_line(error: Exception, state: str, found: str) -> None:
    line = here.look("this", raising(error))
    assert (line.what, line.state, line.found) == ("this", state, found)


def test_packages_beyond_their_bounds_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.packages()[0] == OK
    required = ["torch>=2.6", "numpy>=1", "tqdm>=4", "absent>=1; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: required)
    versions = {"torch": "2.4.1+cu121", "tqdm": "not installed"}
    monkeypatch.setattr(here, "_version", lambda name: versions.get(name, "9.0"))
    found = "torch is 2.4.1+cu121; tqdm is not installed"
    assert here.packages() == (WRONG, found, "pip install 'torch>=2.6' 'tqdm>=4'")


def test_a_device_that_multiplies_wrongly_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.device("cpu")[0] == OK
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.full(size, 1.1, device=device))
    assert here.device("cpu")[0] == WRONG


@pytest.mark.parametrize(("cuda", "why"), [(None, "has no CUDA"), ("13.0", "driver is too old")])
def test_a_gpu_that_torch_does_not_see_is_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: str | None, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(here, "_NVIDIA", tmp_path)
    state, found, advice = here.device("auto")
    assert state == NOTE
    assert why in found
    assert "docs/install.md" in advice
    assert here.device("cpu")[0] == OK  # who asks for it knows


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 1.5), ("max 100000", 8), ("", 8), ("nonsense", 8)])
def test_cores_are_those_of_the_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, expected: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(here, "_CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text(quota)
    assert here.cores() == expected


@pytest.mark.parametrize(
    ("given", "there", "state", "advice"),
    [(2, 2, OK, ""), (8, 2, NOTE, "set threads=2"), (4, 1.5, NOTE, "set threads=1"), (1, 0.5, OK, "")],
)
def test_more_threads_than_cores_are_noted(
    monkeypatch: pytest.MonkeyPatch, given: int, there: float, state: str, advice: str
) -> None:
    monkeypatch.setattr(here, "cores", lambda: there)
    found = here.threads(given)
    assert found[0] == state
    assert "".join(found[2:]) == advice


def test_memory_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(here, "_CGROUP", tmp_path)
    free = here._free_memory()
    assert 0 < free <= here._all_memory()
    (tmp_path / "memory.max").write_text(str(3 * here.GIB))
    (tmp_path / "memory.current").write_text(str(here.GIB))
    assert here._free_memory() <= 2 * here.GIB
    state, _, advice = here.memory(4.0)
    assert state == NOTE
    assert "finetune.cache_gib=4" in advice
    monkeypatch.setattr(here, "_free_memory", lambda: 7 * here.GIB)
    assert here.memory(4.0) == (OK, "7.0 GiB free")


def test_a_full_or_closed_disk_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "not/yet"
    assert here.disk(folder)[0] == OK
    assert not folder.parent.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=here.GIB - 1))
    assert here.disk(folder)[0] == WRONG

    def refuses(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(here, "TemporaryFile", refuses)
    state, found, advice = here.disk(folder)
    assert state == WRONG
    assert "Permission denied" in found
    assert "output_dir" in advice


def test_locks_are_tried_by_another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert here.locks(tmp_path / "not/yet")[0] == OK
    lock = fcntl.lockf
    monkeypatch.setattr(fcntl, "lockf", lambda *_: None)  # says yes and holds nobody out
    state, found, advice = here.locks(tmp_path)
    assert state == NOTE
    assert "nobody" in found
    assert "nolock" in advice

    def refuses(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuses)
    assert "No locks available" in here.locks(tmp_path)[1]
    monkeypatch.setattr(fcntl, "lockf", lock)


def test_a_font_that_is_gone_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    state, path = here.fonts()
    assert state == OK
    assert Path(path).is_file()

    def finds_none(*_: Any, **__: Any) -> str:
        raise ValueError("not found")

    monkeypatch.setattr(font_manager, "findfont", finds_none)
    assert here.fonts()[0] == WRONG


def test_launchers_that_are_not_installed_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_version", lambda name: "1.2.0" if "joblib" in name else "not installed")
    state, found, advice = here.launchers()
    assert (state, found) == (NOTE, "installed: joblib")
    assert all(f"xconsensus[{EXTRAS[name]}]" in advice for name in ("submitit", "ray"))
    monkeypatch.setattr(here, "_version", lambda _: "1.2.0")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "sbatch" in here.launchers()[2]
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/sbatch")
    assert here.launchers() == (OK, f"installed: {', '.join(EXTRAS)}")


@pytest.mark.parametrize("flag", OFFLINE)
def test_flags_that_forbid_downloads_are_named(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    assert doctor._downloads()[0] == OK
    monkeypatch.setenv(flag, "1")
    state, found, advice = doctor._downloads()
    assert state == NOTE
    assert flag in found
    assert flag in advice


def test_weights_are_looked_for_where_the_libraries_keep_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    specifications = {
        "a": {"library": "timm", "model": "resnet18", "pretrained": "a1_in1k"},
        "b": {"library": "torchvision", "model": "resnet18", "pretrained": "IMAGENET1K_V1"},
    }
    of_hub, of_torch = members_of(specifications, defaults={}, size=224, resize=256)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    assert "model.safetensors of timm/resnet18.a1_in1k on the Hugging Face hub" in at_hand.lacking(of_hub)
    advice = at_hand.lacking(of_torch)
    assert "https://download.pytorch.org/models/resnet18-" in advice
    file = tmp_path / "torch/checkpoints" / advice.split("/models/")[1].split()[0]
    file.parent.mkdir(parents=True)
    file.touch()
    assert at_hand.lacking(of_torch) == ""
    repository = tmp_path / "hub/models--timm--resnet18.a1_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0123abc")
    (repository / "snapshots/0123abc").mkdir(parents=True)
    (repository / "snapshots/0123abc/model.safetensors").touch()
    assert at_hand.lacking(of_hub) == ""


def test_members_that_are_trained_need_no_other_weights(untrained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_hand, "lacking", lambda member: f"fetch {member.name}.pth")
    assert "4 of 4 members' are not here" in examined(untrained)[1]["weights"]["found"]
    weights = untrained.outputs / "shapes/weights"
    weights.mkdir(parents=True)
    for name in ("resnet", "byob", "shuffle"):
        (weights / f"{name}.safetensors").touch()
    code, lines = examined(untrained)
    assert (code, lines["weights"]["found"]) == (3, "1 of 4 members' are not here: efficient")
    assert lines["weights"]["advice"] == "fetch efficient.pth"
