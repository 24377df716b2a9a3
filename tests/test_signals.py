"""SIGTERM and Ctrl-C: within seconds, one line, what is done is kept."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import Project, wait_until
from test_cli import script

from xconsensus.jobs.signals import stopping

# As in a pass through a network: the main thread does not come back to the interpreter. Its other thread says so once
# processor time has passed, which only the call takes: a signal any earlier would find the interpreter listening.
BUSY = """\
import hashlib, threading, time
from xconsensus.jobs import signals


def say():
    while time.process_time() < start + 0.2:
        time.sleep(0.01)
    print("busy", flush=True)


signals.SECONDS = 0.5
with signals.stopping():
    start = time.process_time()
    threading.Thread(target=say).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_explain_soon_and_the_same_command_goes_on(
    predicted: Project, number: signal.Signals, code: int
) -> None:
    arguments = ("explain.shard_images=1", "explainer.samples=300")
    folder = predicted.outputs / "pets/explanations/lime"
    command = [str(script()), "explain", *predicted.arguments, *arguments]
    before = signal.signal(number, signal.SIG_DFL)  # a shell's background job ignores Ctrl-C, and so would its children
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(number, before)
    wait_until(lambda: any(folder.glob("*/*.safetensors")) or process.poll() is not None)
    process.send_signal(number)
    sent = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert time.monotonic() - sent < 6
    assert "what is done is kept; the same command goes on from there" in said.splitlines()[-1]
    assert "Traceback" not in said
    whole = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    predicted.done("explain", *arguments)
    assert whole
    assert {path: path.read_bytes() for path in whole} == whole
    assert len([*folder.glob("*/*.safetensors")]) == 24


def test_a_process_that_is_busy_is_cut_off() -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "busy\n"
    process.terminate()
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert said.strip() == "stopped by signal 15: what is done is kept; the same command goes on from there"


def test_somebody_else_s_handler_stays() -> None:
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append("theirs"))
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGTERM)
        assert got == ["theirs"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_default_handler_is_back_afterwards() -> None:
    with stopping():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    wait_until(lambda: not [thread for thread in threading.enumerate() if "_watch" in thread.name], 10)


def test_in_another_thread_it_does_nothing(tmp_path: Path) -> None:
    def inside() -> None:
        with stopping():
            (tmp_path / "done").touch()

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert (tmp_path / "done").exists()
