"""How files are written and read: whole or not at all. `tensors` writes what is not text.

A file is written under a temporary name, flushed to the disk and renamed. Tables carry the settings that shaped their
numbers, the versions that made them, and a checksum (XXH3, 64 bits) of all that beside them: reading with other
settings stops and names the setting that differs, reading what has changed since names the file.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from xxhash import xxh3_64_hexdigest

from xconsensus.errors import CommonError, InputError
from xconsensus.store.folders import damaged
from xconsensus.store.processes import HOST, PLACE, alive, started
from xconsensus.store.provenance import Settings, versions

if TYPE_CHECKING:  # it takes long to import, and logs, help and JSON do without it
    import pandas as pd


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under ``path`` only once it is whole and on the disk.

    Raises InputError when the disk is full or the folder cannot be written; what was there before stays.
    """
    process = f"{HOST}.{PLACE}-{started()}.{os.getpid()}"
    temporary = path.with_name(f".{xxh3_64_hexdigest(os.fsencode(path.name))}.{process}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CommonError(f"{path}: no space left on the device; free some and run again to go on") from error
        raise CommonError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # nothing to remove, or a disk that cannot be written: that is what is raised
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files below ``folder`` that processes of this machine left when they were killed.

    Those of a process of which nobody can tell whether it runs stay.
    """
    for directory, _, names in os.walk(folder):
        for path in (Path(directory, name) for name in names if name.endswith(".tmp")):
            if match := re.fullmatch(rf"\.\w+\.{HOST}\.(?:(\w*)-(\d+)\.)?(\d+)\.tmp", path.name):
                with suppress(OSError):  # gone meanwhile; where nothing can be removed they are no reason to stop
                    if alive(HOST, int(match[3]), match[1] or "", int(match[2] or 0), path.stat().st_mtime) is False:
                        path.unlink()


def as_csv(table: "pd.DataFrame") -> bytes:
    """A table as a CSV file, without its index."""
    return table.to_csv(index=False).encode()


def write_csv(path: Path, table: "pd.DataFrame", settings: Settings | None = None) -> None:
    """A CSV file of ``table``; with ``settings``, they stand beside it as <name>.json with a checksum of both."""
    text = as_csv(table)
    if settings is not None:
        content = {"settings": settings, "versions": versions()}
        write_json(path.with_suffix(".json"), {**content, "checksum": _checksum(content, text)})
    with atomic(path) as file:
        file.write(text)


def write_long_csv(path: Path, parts: Iterable["pd.DataFrame"]) -> None:
    """A CSV file of tables of the same columns, one below the other; memory holds one of them at a time."""
    with atomic(path) as file:
        for number, part in enumerate(parts):
            part.to_csv(file, index=False, header=number == 0)


def _checksum(content: Mapping[str, Any], table: bytes) -> str:
    return xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode() + table)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, keys in the given order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A UTF-8 text file."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file of these bytes."""
    with atomic(path) as file:
        file.write(content)


def read_csv(path: Path, columns: Sequence[str] = ()) -> "pd.DataFrame":
    """A CSV file as it was written; InputError naming one that is missing, no table, or lacks some of ``columns``."""
    import pandas as pd

    try:
        # empty cells are missing numbers; a member or an image may be called "None" or "nan"
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"image_id": str, "member": str})
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    if absent := [column for column in columns if column not in table]:
        raise InputError(f"{path}: damaged, has no column {absent[0]}; remove it and run its stage again")
    return table


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; InputError naming a file that is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    return content if isinstance(content, dict) else {}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that ``write_csv`` put beside the table ``path``; DamagedError when either has changed since."""
    try:
        content = read_json(path.with_suffix(".json"))
        checksum, settings = content.pop("checksum"), content["settings"]
        whole = checksum == _checksum(content, path.read_bytes())
    except (InputError, KeyError, OSError) as error:
        raise damaged(path.with_suffix(".json"), "cannot be read") from error
    if not (whole and isinstance(settings, dict)):
        raise damaged(path, f"it or {path.stem}.json has changed since it was written")
    return settings


def move(path: Path, folder: Path) -> None:
    """Move a file, present or not, into a folder; CommonError naming one that cannot be moved."""
    try:
        if path.exists():
            folder.mkdir(exist_ok=True)
            path.replace(folder / path.name)
    except OSError as error:
        raise CommonError(f"{path}: cannot be moved to {folder} ({error.strerror or error})") from error


def remove(path: Path) -> None:
    """Remove a file or a folder of artefacts, present or not; CommonError naming one that cannot be removed."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CommonError(f"{path}: cannot be removed ({error.strerror or error})") from error
