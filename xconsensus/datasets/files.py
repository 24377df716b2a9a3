"""Photographs below folders as other systems leave them: what is read, what is passed over, what is counted."""

import os
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

from xconsensus.datasets.images import SUFFIXES
from xconsensus.errors import InputError

# what systems put beside a user's own files, besides names with a leading dot
_OF_SYSTEMS = {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "#snapshot", "@Recycle", "$RECYCLE.BIN", "lost+found"}
_OF_SYSTEMS |= {"System Volume Information", "Thumbs.db", "desktop.ini"}
OF_MASKS = ("annotations", "ground_truth", "gt", "mask", "masks", "segmentation", "segmentations")
# files of xconsensus's own, below <output_dir>/<dataset.name>
_OF_A_STORE = ("predictions/*/*.safetensors", "weights/*.safetensors", "status/*/*.json", "scores/*/*/members.csv")


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in ``folder``, sorted, but for what systems put there; InputError naming what cannot be listed."""
    try:
        found = [e for e in os.scandir(folder) if not e.name.startswith(".") and e.name not in _OF_SYSTEMS]
    except OSError as error:
        raise InputError(f"{shown(folder)}: cannot be listed ({error.strerror})") from error
    return sorted(found, key=lambda entry: entry.name)


def photographs(folder: str | Path, left_out: Counter[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the photographs in ``folder`` and below it; ``left_out`` counts, by their kind, the files that are none.

    Raises InputError for names that are not UTF-8, and folders that cannot be listed.
    """
    above = (*above, os.path.realpath(folder))
    for entry in entries(folder):
        if is_folder(entry):
            named(entry)
            if entry.is_symlink() and _holds_one_of(os.path.realpath(entry.path), above):
                left_out["link to a folder above it"] += 1
            elif entry.name.lower() in OF_MASKS:
                left_out[f"in folders {entry.name}"] += sum(1 for _ in photographs(entry.path, Counter(), above))
            else:
                yield from photographs(entry.path, left_out, above)
        elif is_broken(entry):
            left_out["broken link"] += 1
        elif is_photograph(entry):
            yield named(entry).path
        else:
            left_out[kind_of(entry)] += 1


def _holds_one_of(folder: str, others: tuple[str, ...]) -> bool:
    """Whether ``folder`` is one of ``others`` or above one, all of them real paths."""
    return any(other == folder or Path(folder) in Path(other).parents for other in others)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether ``entry`` is a folder or a link to one."""
    with suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether ``entry`` is a link to nothing."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def is_photograph(entry: os.DirEntry[str]) -> bool:
    """Whether ``entry`` is a file with the suffix of a kind of image that is read."""
    with suppress(OSError):
        return os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file()
    return False


def kind_of(entry: os.DirEntry[str]) -> str:
    """The suffix of a file that is not read, for the line that counts such files."""
    return shown(os.path.splitext(entry.name)[1].lower()) or "without a suffix"


def named(entry: os.DirEntry[str]) -> os.DirEntry[str]:
    """The entry, whose name is to stand in results; InputError where it is not UTF-8."""
    check_name(entry.path)
    return entry


def check_name(path: str) -> None:
    """InputError for a path that is not UTF-8: no file of results can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{shown(path)}: its name is not UTF-8 and cannot stand in results: rename it") from None


def shown(path: object) -> str:
    """A path or name for a message, bytes that are not UTF-8 as in "caf\\xe9"."""
    return os.fsencode(str(path)).decode(errors="backslashreplace")


def is_output(folder: str | Path) -> bool:
    """Whether ``folder`` holds what xconsensus has made, as an ``output_dir`` does or a data set's folder in it."""
    try:
        if any(is_photograph(entry) for entry in os.scandir(folder)):
            return False
    except OSError:
        return False
    return any(next(Path(folder).glob(f"{depth}{own}"), None) for own in _OF_A_STORE for depth in ("", "*/", "*/*/"))


def subfolders(folder: str | Path, apart: Container[str] = ()) -> list[str]:
    """Names of the folders in ``folder`` that may be classes: not our own output, nor those whose real path is in
    ``apart``.

    Raises InputError for names that are not UTF-8.
    """
    found = [named(entry) for entry in entries(folder) if is_folder(entry)]
    return [e.name for e in found if os.path.realpath(e.path) not in apart and not is_output(e.path)]


def counted(counts: Counter[str]) -> str:
    """Counts as words: "2 .heic, 1 broken link"."""
    return ", ".join(f"{count} {what}" for what, count in counts.most_common() if count)
