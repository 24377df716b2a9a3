"""Work on many small arrays in several threads, and work ahead in one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``function`` of each item, in order, in as many threads as torch would use for one operation.

    In these torch computes with one thread each: an image's map is too small to be shared by several, and waiting for
    each other costs them more than the work. Results of no more than two items a thread are in memory at a time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(items), 2 * threads):
                yield from pool.map(function, items[start : start + 2 * threads])
    finally:
        torch.set_num_threads(threads)


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``function`` of each item, in order, the next one made by a thread while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            following = pool.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
