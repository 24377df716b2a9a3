"""What is made already, and whose turn it is to make the rest: the one way in which every stage resumes.

Find what is wrong with what is there (`is_made`, `spoilt`), discard it (`discard`), see what is missing
(`Shards.missing`), take turns with other runs (`claimed`, `turns`). Only `discard` removes anything.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xconsensus.errors import DamagedError, SettingsError
from xconsensus.progress import log
from xconsensus.store.locks import claimed
from xconsensus.store.shards import Shards


def is_made(path: Path, check: Callable[[], Any], overwrite: bool = False) -> bool:
    """Whether the artefact at ``path`` exists and passes ``check``, which reads it and compares its settings.

    One that is damaged is said to be, and counts as missing: writing it again replaces it. So does one of other
    settings with ``overwrite``; without, its SettingsError is raised.
    """
    if not path.exists():
        return False
    try:
        check()
    except (DamagedError, SettingsError) as error:
        _accept(error, overwrite)
        return False
    return True


def spoilt(shards: Shards, overwrite: bool = False) -> list[DamagedError | SettingsError]:
    """What is wrong with files of a folder, as `is_made` has it; their images, or those that have changed, count as
    missing from now on.

    All files are read whole.
    """
    errors = shards.inspect()
    for error in errors:
        _accept(error, overwrite)
    return errors


def discard(shards: Shards, errors: Iterable[DamagedError | SettingsError]) -> None:
    """Remove files that are to be made again; CommonError naming one that cannot be removed."""
    for error in errors:
        shards.discard(error)


def turns(root: Path, shards: Shards, ids: Sequence[str], size: int) -> Iterator[list[str]]:
    """What is missing of each ``size`` ids in a row, for this run to make: one file each, the same files however often
    interrupted. What another run below ``root`` is making comes last, if it is missing still.
    """
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    for part in claimed(root, [(shards.path(part), part) for part in parts if shards.missing(part)]):
        shards.refresh()
        if missing := shards.missing(part):
            yield missing


def _accept(error: DamagedError | SettingsError, overwrite: bool) -> None:
    """Say that something is made again, or raise where nobody said that it may be."""
    if isinstance(error, DamagedError):
        log.info(f"{error.path}: damaged ({error.reason}), is made again")
    elif not overwrite:
        raise error
