"""Memory of freed tensors is kept for the next batch instead of going back to the system each time."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
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
    """Give back what is kept; called now and then, since the kept memory falls into pieces and grows."""
    if _libc:
        _libc.malloc_trim(0)
