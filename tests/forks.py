"""The command line in processes of its own that start in no time: forks of one process that has imported everything.

Started as a program, it reads a line of JSON for each run: the arguments, a file for what is printed, and the moment to
die by kill -9: before an operation on files below a folder, counted from 1, or seconds after the first such operation.
It answers with the exit code, negative for a signal, and the number of operations.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("finetune", "explain", "vote", "score", "plot", "status")
IMPORTED = (
    *(
        "xconsensus.cli",
        "xconsensus.compat",
        "xconsensus.store.locks",
        *(f"xconsensus.stages.{each}" for each in STAGES),
    ),
    *("hydra.main", "skimage.color", "skimage.draw", "skimage.segmentation", "pandas.io.formats.csvs"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf"),
)
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code, file operations below the folder, seconds from the first to the end."""

    code: int
    operations: int
    seconds: float
    output: str


@dataclass(frozen=True)
class Forks:
    """The process that forks."""

    process: "subprocess.Popen[str]"
    folder: Path

    def run(self, *arguments: str, operation: int | None = None, seconds: float | None = None) -> Ended:
        """Run ``xconsensus ARGUMENTS``, to be killed at a moment."""
        assert self.process.stdin
        assert self.process.stdout
        order = {"arguments": arguments, "folder": str(self.folder), "operation": operation, "seconds": seconds}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """A process that forks, until the block ends."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Forks(process, folder)
        process.communicate()


def _serve() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    importlib.import_module("PIL.Image").init()
    gc.freeze()  # pages that no fork's collector writes to stay shared
    for line in sys.stdin:
        order = json.loads(line)
        folder = Path(order["folder"])
        counted, printed = folder / "operations", folder / "printed"
        counted.write_bytes(b"")
        child = os.fork()
        if child == 0:
            _run(order, counted, printed)
        _, status = os.waitpid(child, 0)
        operations = counted.read_bytes()
        seconds = (time.monotonic_ns() - int(operations[:20])) / 1e9 if operations else 0.0
        ended = Ended(os.waitstatus_to_exitcode(status), len(operations[20:]), seconds, printed.read_text())
        print(json.dumps(vars(ended)), flush=True)


def _run(order: dict[str, Any], counted: Path, printed: Path) -> None:
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    tally, below, done = os.open(counted, os.O_WRONLY), os.path.join(order["folder"], "outputs"), 0

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal done
        changes = event in _CHANGES or (
            event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if not changes or not os.fsdecode(given[0] if not isinstance(given[0], int) else b"").startswith(below):
            return
        done += 1
        if done == order["operation"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if done == 1:
            os.write(tally, f"{time.monotonic_ns():020}".encode())
            if order["seconds"] is not None:
                threading.Timer(order["seconds"], os.kill, (os.getpid(), signal.SIGKILL)).start()
        os.write(tally, b"x")

    sys.addaudithook(watch)
    sys.argv = ["xconsensus", *order["arguments"]]
    code: Any = 1
    try:
        from xconsensus import cli

        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
