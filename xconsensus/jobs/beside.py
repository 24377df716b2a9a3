"""Work in processes beside this one. What they import is kept small: no torch, which takes them seconds."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar

Result = TypeVar("Result")

_WORTH = 6  # calls, of some tenths of a second each, for which starting processes pays


def in_processes(function: Callable[..., Result], given: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """``function`` of each tuple of arguments, in order: by at most ``workers`` new processes, or here if it is few.

    The function is one that any process can import.
    """
    if workers < 2 or len(given) < _WORTH:
        yield from starmap(function, given)
        return
    pool = ProcessPoolExecutor(min(workers, len(given)), get_context("spawn"), _end_with_parent)
    try:
        for call in [pool.submit(function, *arguments) for arguments in given]:
            yield call.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when that has ended, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
