"""Memory of freed tensors is kept for the next batch instead of going back to the system each time."""

import ctypes
import platform
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_STATM = Path("/proc/self/statm")  # sizes in pages: of the process, resident, ...
_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


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


class Keeper:
    """Gives kept memory back when it has grown: it falls into pieces, and a new member needs others.

    Not after every image: the kernel takes as long to provide the pages anew as a small network to use them.
    """

    def __init__(self) -> None:
        self._usual: int | None = None

    def release_if_grown(self) -> None:
        """Give back what is kept if the process holds half as much again as at the first call since it last did."""
        if not _libc:
            return
        resident = int(_STATM.read_text().split()[1])
        if self._usual is None:
            self._usual = resident
        elif resident > 1.5 * self._usual:
            release_freed_memory()
            self._usual = None
