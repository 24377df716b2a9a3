"""What the files of images hold: a digest each, taken again only where a file's size or a time of change differs."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from xxhash import xxh3_64, xxh3_64_hexdigest

from xconsensus.errors import CommonError, DamagedError
from xconsensus.progress import counter, log
from xconsensus.store.tensors import read_whole, write_tensors
from xconsensus.threads import at_once

_DIGITS = 16  # of a digest, hexadecimal
_NO_TIMES = (0, 0, 0)
_NO_FILE = "0" * _DIGITS  # of an image that is drawn, or that own code has from elsewhere
_PART = 2**20  # bytes read at once
_AT_ONCE = 1024  # files between two steps of the progress bar


@dataclass(frozen=True)
class Contents:
    """What images hold ``now``, and what they held for artefacts made before artefacts had notes of it (``then``).

    Both map image id -> digest.
    """

    now: Mapping[str, str]
    then: Mapping[str, str]
    labelled: bool = False  # whether an image's label, or the class that is explained, counts as part of it

    def of(self, ids: Iterable[str]) -> str:
        """The note of an artefact that is made of these images now: their digests in a row."""
        return "".join(self.now.get(image_id, _NO_FILE) for image_id in ids)

    def changed(self, ids: Sequence[str], note: str | None) -> list[str]:
        """Those of an artefact's images that hold something else than its ``note`` says, None where it has none.

        Images that are no longer there are not among them.
        """
        if note is None:
            return [image_id for image_id in ids if image_id in self._changed_since_then]
        digests = [note[start : start + _DIGITS] for start in range(0, len(note), _DIGITS)]
        return [each for each, digest in zip(ids, digests, strict=False) if self.now.get(each, digest) != digest]

    def twins(self) -> list[tuple[str, str]]:
        """The images that hold the same bytes as one before, each with that one."""
        first: dict[str, str] = {}
        pairs = [(first.setdefault(digest, each), each) for each, digest in self.now.items() if digest != _NO_FILE]
        return [(before, each) for before, each in pairs if before != each]

    def with_labels(self, now: Mapping[str, int], then: Mapping[str, int]) -> "Contents":
        """The same where an image's label counts as part of what it holds."""
        return Contents(_labelled(self.now, now), _labelled(self.then, then), labelled=True)

    @cached_property
    def _changed_since_then(self) -> frozenset[str]:
        return frozenset(image_id for image_id, digest in self.now.items() if self.then[image_id] != digest)


def _labelled(digests: Mapping[str, str], labels: Mapping[str, int]) -> dict[str, str]:
    return {image_id: _digest_of(f"{digest} {labels[image_id]}") for image_id, digest in digests.items()}


def _digest_of(text: str) -> str:
    return xxh3_64_hexdigest(text.encode())


class Seen(NamedTuple):
    """An image when it was looked at: its file's bytes, times of change in nanoseconds (of contents, of all else too)
    and digest, and from the first look the digest and the label of artefacts without notes.
    """

    size: int
    modified: int
    changed: int
    digest: str
    digest_then: str
    label_then: int


def look(
    table: Path,
    files: Mapping[str, str],
    labels_then: Callable[[], Mapping[str, int]],
    was_read_otherwise: Callable[[str], bool],
    *,
    again: bool = False,
    keep: bool = True,
    progress: str = "off",
) -> dict[str, Seen]:
    """What images hold, by their ids.

    Parameters
    ----------
    table : the file that remembers it, made at the first look.
    files : image id -> path, without a file empty or anything else.
    labels_then : gives image id -> the label that an earlier version gave it; asked for images not known yet.
    was_read_otherwise : whether an earlier version read other pixels from a file.
    again : whether to read files, too, that look as they did.
    keep : whether to write ``table``.
    progress : how progress is shown.
    """
    known = _read(table)
    times = {path: _times(path) for path in {*files.values()}}
    read = {files[each]: seen.digest for each, seen in known.items() if seen[:3] == times.get(files.get(each, ""))}
    unread = [path for path in times if times[path] != _NO_TIMES and (again or path not in read)]
    with counter("looking at images", len(unread), "files", progress) as count:
        for start in range(0, len(unread), _AT_ONCE):
            part = unread[start : start + _AT_ONCE]
            read |= zip(part, at_once(_digest, part), strict=True)
            count.add(len(part))
    found, labels = {}, {} if files.keys() <= known.keys() else labels_then()
    for image_id, path in files.items():
        digest = read.get(path, _NO_FILE)
        if before := known.get(image_id):
            found[image_id] = Seen(*times[path], digest, *before[4:])
            continue
        otherwise = digest != _NO_FILE and was_read_otherwise(path)
        then = _digest_of(f"{digest} read otherwise") if otherwise else digest
        found[image_id] = Seen(*times[path], digest, then, labels[image_id])
    if keep and known | found != known:
        with suppress(CommonError):  # results can be read where nothing can be written
            _write(table, known | found)
    return found


def _times(path: str) -> tuple[int, int, int]:
    """Bytes, and times of change; a loader says more of a file that cannot be read."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return _NO_TIMES
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(path: str) -> str:
    state = xxh3_64()
    with suppress(OSError), open(path, "rb") as file:
        while part := file.read(_PART):
            state.update(part)
    return state.hexdigest()


def _read(table: Path) -> dict[str, Seen]:
    if not table.is_file():
        return {}
    try:
        tensors, header = read_whole(table, *Seen._fields)
    except DamagedError as error:
        log.info(f"{table}: damaged ({error.reason}), is made again")
        return {}
    columns = [tensors[name].numpy() for name in Seen._fields]
    texts = [[f"{each:016x}" for each in column.view(np.uint64).tolist()] for column in columns[3:5]]
    rows = zip(*(column.tolist() for column in columns[:3]), *texts, columns[5].tolist(), strict=True)
    return {image_id: Seen(*row) for image_id, row in zip(header["ids"], rows, strict=True)}


def _write(table: Path, seen: Mapping[str, Seen]) -> None:
    tensors = {}
    for name, column in zip(Seen._fields, zip(*seen.values(), strict=True), strict=True):
        numbers = [int(each, 16) if isinstance(each, str) else each % 2**64 for each in column]
        tensors[name] = torch.from_numpy(np.array(numbers, np.uint64).view(np.int64))
    write_tensors(table, tensors, {}, ids=list(seen))
