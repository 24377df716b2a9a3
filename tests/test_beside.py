"""Work in processes beside this one: the same results in order, and none outlives the one that started them."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_until

from xconsensus.jobs.beside import in_processes

PARENT = """\
import os, sys, time
from xconsensus.jobs.beside import in_processes

if __name__ == "__main__":
    with open(sys.argv[1], "w") as file:
        for pid in in_processes(os.getpid, [()] * 6, 2):
            print(pid, file=file, flush=True)
            print("at it", flush=True)
            time.sleep(60)
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("calls", [0, 1, 9])
def test_results_come_in_order_however_many_processes_make_them(workers: int, calls: int) -> None:
    given = [(float(number), 2.0) for number in range(calls)]
    assert list(in_processes(math.pow, given, workers)) == [number**2 for number in range(calls)]
    others = set(in_processes(os.getpid, [()] * calls, workers))
    here = calls < 6 or workers == 1
    assert (os.getpid() in others) == (here and calls > 0)
    assert len(others) <= workers
    assert bool(others) == (calls > 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    script, pids = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, pids], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "at it\n"
    child = int(pids.read_text().split()[0])
    parent.send_signal(number)
    parent.communicate(timeout=60)
    wait_until(lambda: not running(child))


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked for its code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
