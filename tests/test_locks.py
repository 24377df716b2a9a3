"""Two runs in one folder: claims, no work done twice, no temporary files for good."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Project
from test_cli import script

from xconsensus.store.files import remove_leftovers, write_text
from xconsensus.store.locks import claimed
from xconsensus.store.processes import HOST, PLACE, alive, started

HOLDER = """\
import sys
from pathlib import Path
from xconsensus.store.locks import claimed

folder = Path(sys.argv[1])
for unit in claimed(folder, [(folder / "a", "a")]):
    print(unit, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the claim on ``folder/a``."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "a\n"
        yield process
        process.kill()


def units(folder: Path) -> Iterator[tuple[Path, str]]:
    return ((folder / name, name) for name in "abc")


def test_a_process_gets_every_unit_in_order(tmp_path: Path) -> None:
    assert [*claimed(tmp_path, units(tmp_path))] == ["a", "b", "c"]
    assert [*claimed(tmp_path, units(tmp_path))] == ["a", "b", "c"]


@pytest.mark.parametrize("how", ["it goes on", "it is killed"])
def test_what_another_process_has_comes_last_once_that_lets_go(tmp_path: Path, how: str) -> None:
    got = []
    with holder(tmp_path) as other:
        for unit in claimed(tmp_path, units(tmp_path)):
            got.append((unit, other.poll()))
            if unit == "c":
                assert other.stdin
                other.kill() if how == "it is killed" else other.communicate("\n")
    code = -signal.SIGKILL if how == "it is killed" else 0
    assert [unit for unit, _ in got] == ["b", "c", "a"]
    assert [at for _, at in got[:2]] == [None, None]
    assert other.returncode == code


def test_a_failing_unit_leaves_no_claim(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError):
        for _ in claimed(tmp_path, units(tmp_path)):
            raise ZeroDivisionError
    with holder(tmp_path) as other:
        assert other.poll() is None


def test_without_locks_everything_can_be_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("xconsensus.store.locks.fcntl.lockf", none)
    assert [*claimed(tmp_path, units(tmp_path))] == ["a", "b", "c"]


def test_below_a_file_everything_can_be_claimed(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    assert [*claimed(tmp_path / "file", units(tmp_path / "file"))] == ["a", "b", "c"]


def run_twice(project: Project, *arguments: str) -> tuple[str, str]:
    """Two runs at once in processes of their own, which must both succeed; what they said."""
    command = [str(script()), *arguments, *project.arguments]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return said[0], said[1]


def test_two_runs_at_once_leave_what_one_does(photographs: Project) -> None:
    arguments = ("explain.shard_images=2",)
    for stage in ("finetune", "explain", "vote", "score"):
        run_twice(photographs, stage, *arguments)
    twice = {name: content for name, content in photographs.files().items() if "images/" not in name}
    assert not [name for name in twice if name.endswith(".tmp")]
    one = photographs.folder / "one"
    for stage in ("finetune", "explain", "vote", "score"):
        photographs.done(stage, *arguments, f"output_dir={one}")
    alone = {str(path.relative_to(one)): path.read_bytes() for path in one.rglob("*") if path.is_file()}
    assert {name: alone[name] for name in twice} == twice


def test_two_runs_at_once_explain_nothing_twice(predicted: Project) -> None:
    """The member's own code writes a line a pass; those of an explanation's samples are counted."""
    module = predicted.folder / "models/grids.py"
    log = predicted.folder / "passes"
    counting = f"""
    def forward(self, inputs):
        open({str(log)!r}, "a").write(f"{{len(inputs)}}\\n")
        return super().forward(inputs)
"""
    module.write_text(f"{module.read_text()}\n\nclass Counted(Grid):{counting}")
    extra = ("explain.shard_images=1", "explainer.samples=20", "explain.batch_size=20")
    members = "committee.member_defaults.model=grids.py:Counted"
    predicted.done("finetune", members, "overwrite=true")
    log.write_text("")
    run_twice(predicted, "explain", members, *extra)
    assert log.read_text().split().count("20") == 4 * 6


def test_leftovers_of_dead_processes_go_those_of_others_stay(photographs: Project) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = photographs.outputs / "pets/explanations/lime/first"
    folder.mkdir(parents=True)
    left = folder / f".0123456789abcdef.{HOST}.{dead.pid}.tmp"
    stay = {folder / f".0123456789abcdef.{host}.{pid}.tmp" for host, pid in ((HOST, os.getppid()), ("other", dead.pid))}
    for path in (left, *stay):
        path.write_text("half")
    photographs.done("finetune", "dry_run=true")
    assert left.exists()
    photographs.done("finetune")
    assert {*folder.iterdir()} == stay
    assert (alive(HOST, os.getpid()), alive(HOST, dead.pid), alive("other", dead.pid)) == (True, False, True)


def test_processes_of_other_containers_and_later_ones_of_a_number_are_told_apart(tmp_path: Path) -> None:
    now, boot = time.time(), PLACE[:8]
    other_boot, other_container = "0" * 16, f"{boot}{'0' * 8}"
    own = os.getpid()
    assert alive(HOST, own, PLACE, started(own)) is True
    assert alive(HOST, own, PLACE, started(own) + 1) is False  # the number was given to another process
    for pid in (own, 2**22):
        assert alive(HOST, pid, other_container, 1, now) is None
        assert alive(HOST, pid, other_boot, 1, now) is None
        assert alive(HOST, pid, other_boot, 1, 1.0) is False  # before this machine was started
    names = [f".0f.{HOST}.{place}-1.{2**22}.tmp" for place in (PLACE, other_container, other_boot)]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_a_process_is_told_from_others_by_when_it_began() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime") as file:
            uptime = float(file.read().split()[0])
        assert 0 <= uptime - started(child.pid) / ticks < 60
        assert started() == started(os.getpid()) < started(child.pid)
    finally:
        child.communicate(b"\n")
    assert started(child.pid) == 0


def test_a_killed_writer_s_file_is_taken_for_a_leftover(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from xconsensus.store.files import atomic\nwith atomic(Path(sys.argv[1])) as file: file.write(b'x'); file.flush(); os.kill(os.getpid(), 9)"
    long = tmp_path / ("ü" * 100 + ".safetensors")
    assert subprocess.run([sys.executable, "-c", code, str(long)], check=False).returncode == -9
    assert len([*tmp_path.iterdir()]) == 1
    remove_leftovers(tmp_path)
    assert [*tmp_path.iterdir()] == []
