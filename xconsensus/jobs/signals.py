"""SIGTERM and Ctrl-C: what is in hand is dropped, what is done is kept, within seconds and with a line that says so."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 4.0  # a pass may keep the interpreter from seeing a signal for longer; cut off, it leaves whole files only
KEPT = "what is done is kept; the same command goes on from there"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a time limit sends it."""


@contextmanager
def stopping() -> Iterator[None]:
    """Exit with 130 on Ctrl-C and 143 on SIGTERM, at the latest ``SECONDS`` after the signal.

    A handler of SIGTERM that is not the default one stays: some launchers of jobs have their own.
    """
    try:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            with _watched():
                yield
        else:
            yield
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        print(f"\n{'terminated' if terminated else 'interrupted'}: {KEPT}", file=sys.stderr, flush=True)
        sys.exit(143 if terminated else 130)


@contextmanager
def _watched() -> Iterator[None]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # whatever the main thread does
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_watch, args=(reader, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        os.close(writer)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _watch(reader: int, ended: threading.Event) -> None:
    """End the process ``SECONDS`` after a signal that its main thread has not obeyed by then."""
    while number := os.read(reader, 1):
        if number[0] in (signal.SIGTERM, signal.SIGINT) and not ended.wait(SECONDS):
            os.write(2, f"\nstopped by signal {number[0]}: {KEPT}\n".encode())
            os._exit(128 + number[0])
    os.close(reader)
