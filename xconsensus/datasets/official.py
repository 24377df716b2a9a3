"""What loaders of official layouts share: files that must be there, lists of lines, images that the lists name."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

_Part = TypeVar("_Part")


def need(paths: Iterable[Path], fetch: str) -> None:
    """InputError naming the first of ``paths`` that does not exist, with ``fetch``: what to get and where to put it."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; {fetch}")


def folder_of_masks(root: Path, name: str, fetch: str) -> Path:
    """The folder ``name`` inside or beside ``root`` (or anywhere, as an absolute path); InputError if in neither."""
    folders = (root / name, root.parent / name)
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise InputError(f"{folders[0]}: no such folder, nor beside {root}; {fetch}, or set dataset.masks=null")
    return found


def mask_there(path: Path, image: str) -> Path:
    """``path``; InputError where there is no such mask of the ``image``."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, the mask of image {image}: unpack the archive of masks again")
    return path


def part_of(splits: Mapping[str, _Part], split: str) -> _Part:
    """What ``splits`` has for ``split``; InputError for an unknown one."""
    if split not in splits:
        raise InputError(f"dataset.splits has no {split!r}, only {', '.join(splits)}")
    return splits[split]


def table(path: Path, *kinds: Callable[[str], Any]) -> list[tuple[Any, ...]]:
    """The lines of a list file as tuples of words, one of each of ``kinds``; blank lines and comments (#) are no lines.

    Raises InputError naming the file that cannot be read, or the line of another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list ({' '.join(str(error).split())})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        try:
            rows.append(tuple(kind(word) for kind, word in zip(kinds, words, strict=True)))
        except ValueError as error:
            form = " ".join("NAME" if kind is str else "NUMBER" for kind in kinds)
            raise InputError(f"{path}:{number}: {line.strip()!r} is not of the form {form}") from error
    return rows


def present(records: Sequence[Record], source: Path) -> list[Record]:
    """``records`` sorted by image id, all of whose images exist; opens no image and lists each folder once.

    Raises InputError when there are none, when ``source`` names an image twice, or one that does not exist.
    """
    if not records:
        raise InputError(f"{source}: names no images of this split")
    files: dict[str, frozenset[str]] = {}
    ordered = sorted(records, key=lambda record: record.image_id)
    previous = replace(ordered[0], image_id="")
    for record in ordered:
        folder, name = os.path.split(record.path)
        if folder not in files:
            files[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
        if name not in files[folder]:
            raise InputError(f"{record.path}: no such file, but {source} names it: unpack the archive of images again")
        if record.image_id == previous.image_id:
            raise InputError(f"{source}: names image {record.image_id} twice")
        previous = record
    return ordered
