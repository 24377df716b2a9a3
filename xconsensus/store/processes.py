"""Which process it was that wrote something: told apart on machines and in containers that share a name, and from a
later process of the same number.
"""

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from xxhash import xxh3_64_hexdigest

HOST = re.sub(r"\W", "_", platform.node())[:60]


def _read(path: str) -> str:
    with suppress(OSError):
        return os.readlink(path) if Path(path).is_symlink() else Path(path).read_text()
    return ""


# where a number tells processes apart: this machine since it was started, and in it this container; empty on macOS
PLACE = "".join(
    xxh3_64_hexdigest(text.encode())[:8]
    for text in (_read("/proc/sys/kernel/random/boot_id"), _read("/proc/self/ns/pid"))
    if text
)


def started(pid: int | None = None) -> int:
    """When a process of this place began, in the system's ticks; this one's without ``pid``; 0 where nobody can say."""
    if pid is not None and _read("/proc/self") != str(os.getpid()):  # /proc shows the numbers of another place
        return 0
    return int(([*_read(f"/proc/{pid or 'self'}/stat").rpartition(")")[2].split(), *["0"] * 20])[19])


def alive(host: str, pid: int, place: str = "", start: int = 0, written: float = 0.0) -> bool | None:
    """Whether a process runs, as far as this one can tell: of other hosts it is taken for granted.

    Parameters
    ----------
    host, pid, place, start : of the process; without ``place`` and ``start``, as logs did not have them, unknown.
    written : when it wrote last, in seconds since 1970.

    None where nobody can tell: it ran in another container, or on another machine of this name, as one that wrote
    something after this machine was started did.
    """
    if host != HOST:
        return True
    if place and PLACE and place != PLACE:
        return None if place[:8] == PLACE[:8] or written > _boot() else False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return not start or started(pid) in (0, start)


def _boot() -> float:
    found = re.search(r"^btime (\d+)", _read("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else 0.0
