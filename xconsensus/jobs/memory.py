"""Batches that fit into the device's memory, and memory of freed tensors kept for the next batch."""

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from xconsensus.errors import InputError
from xconsensus.progress import log

Result = TypeVar("Result")

_FEW = 2  # images that every member takes, by its probe
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_STATM = Path("/proc/self/statm")  # sizes in pages: of the process, resident, ...
_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that a device's or the computer's memory does not suffice."""
    return "out of memory" in str(error) or "can't allocate memory" in str(error)


def within_memory(compute: Callable[[int], Result], size: int, member: str, key: str) -> tuple[Result, int]:
    """``compute(size)`` and that size, halved, with a note, until the memory suffices; ``key`` is its config key.

    Raises InputError naming the member when it does not suffice for one image, or when it fails on such batches for
    another reason, and not on two images.
    """
    while True:
        try:
            return compute(size), size
        except InputError:
            raise
        except Exception as error:  # of the member's own code, or a defect
            if not (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                if size > _FEW and _works(compute, _FEW):
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    raise InputError(
                        f"member {member} fails on batches of up to {size} images, not on {_FEW}: {reason}; set"
                        f" {key}={_FEW}, or mend its forward, which must take any number of images"
                    ) from error
                raise
            if size == 1:
                raise InputError(f"member {member}: out of memory at one image") from error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size //= 2
        log.info(f"{member}: out of memory, going on with {key}={size}")


def _works(compute: Callable[[int], object], size: int) -> bool:
    try:
        compute(size)
    except Exception:
        return False
    return True


def keep_freed_memory() -> None:
    """Make glibc's malloc serve large tensors from memory it keeps; nothing on other systems.

    By default every large tensor is mapped and unmapped anew and the kernel zeroes its pages each time, which takes
    longer than a small network's arithmetic.
    """
    if _libc:
        _libc.mallopt(_M_MMAP_MAX, 0)
        _libc.mallopt(_M_TRIM_THRESHOLD, -1)


def release_freed_memory() -> None:
    """Give back what is kept."""
    if _libc:
        _libc.malloc_trim(0)


class Batches:
    """A batch size that is halved for good where memory does not suffice; ``key`` is its config key.

    Kept memory is given back when it has grown: it falls into pieces, and a new member needs others. Not after every
    image: the kernel takes as long to provide the pages anew as a small network to use them.
    """

    def __init__(self, size: int, key: str) -> None:
        self.size, self.key = size, key
        self._usual: int | None = None

    def compute(self, function: Callable[[int], Result], member: str) -> Result:
        """``function`` of the batch size, as `within_memory` has it."""
        result, self.size = within_memory(function, self.size, member, self.key)
        self._release_if_grown()
        return result

    def _release_if_grown(self) -> None:
        """Give back what is kept if the process holds half as much again as at the first call since it last did."""
        if not _libc:
            return
        resident = int(_STATM.read_text().split()[1])
        if self._usual is None:
            self._usual = resident
        elif resident > 1.5 * self._usual:
            release_freed_memory()
            self._usual = None
