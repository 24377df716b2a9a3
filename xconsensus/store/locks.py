"""Claims on units of work: two runs of a stage in the same folder share the work, and neither does the other's again.

A claim is a POSIX lock on one byte of ``<folder>/.locks``: it ends with its process, however that ends, and holds over
NFS. Where the file system has no locks each run claims everything: work is done twice then, into the same whole files.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from xconsensus.progress import log

Unit = TypeVar("Unit")
_files: dict[Path, int] = {}  # one descriptor a file for good: closing any would drop all of this process's locks on it


def claimed(folder: Path, units: Iterable[tuple[Path, Unit]]) -> Iterator[Unit]:
    """The units, each given with the artefact that it makes below ``folder``, while this process has the claim on it.

    Those that another process has come last, once it lets go of them. Look then whether the artefact exists by now.
    """
    others = []
    for artefact, unit in units:
        with _claim(folder, artefact, fcntl.LOCK_EX | fcntl.LOCK_NB) as mine:
            if mine:
                yield unit
            else:
                others.append((artefact, unit))
    if others:
        log.info(f"another run is making {others[0][0]}{' and others' if others[1:] else ''}: waiting for it")
    for artefact, unit in others:
        with _claim(folder, artefact, fcntl.LOCK_EX):
            yield unit


@contextmanager
def _claim(folder: Path, artefact: Path, operation: int) -> Iterator[bool]:
    """Whether nobody else has the claim on an artefact; it is this process's then until the block ends."""
    digest = hashlib.sha256(os.fsencode(artefact.relative_to(folder))).digest()
    byte = int.from_bytes(digest[:7])  # a file may be 63 bits long; the lock need not lie within it
    mine = _lock(folder / ".locks", operation, byte)
    try:
        yield mine
    finally:
        if mine:
            _lock(folder / ".locks", fcntl.LOCK_UN, byte)


def _lock(path: Path, operation: int, byte: int) -> bool:
    """False where another process has the lock; True also where there are no locks."""
    if (file := _descriptor(path)) is None:
        return True
    try:
        fcntl.lockf(file, operation, 1, byte)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # what POSIX allows for "held by another"
    return True


def _descriptor(path: Path) -> int | None:
    """The open file; None where it cannot be made, as below a folder that cannot be written."""
    if path not in _files:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _files[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return _files.get(path)
