"""Tensors on disk: safetensors files with settings and versions in the header, and shards of many images."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from xxhash import xxh3_64, xxh3_64_hexdigest

from xconsensus.errors import DamagedError, InputError, SettingsError
from xconsensus.store import Settings, as_json, atomic, check_settings, damaged, versions

_HEADER = "xconsensus"  # safetensors keeps a map of strings; one entry, so that equal headers are equal bytes
# The checksum is of the whole file with these digits in its own place, which is the same in every file.
_NONE = b"0" * 16
_BEFORE = b'{"__metadata__":{"xconsensus":"{\\"checksum\\": \\"'
_AT = 8 + len(_BEFORE)  # after the header's length
_AT_END = _AT + len(_NONE)
_PART = 2**20  # bytes read at once


def write_tensors(path: Path, tensors: Mapping[str, Tensor], settings: Settings, **notes: Any) -> None:
    """A safetensors file of ``tensors`` with ``settings``, ``notes`` (JSON), versions and checksum in its header."""
    header = json.dumps({"settings": settings, "versions": versions(), **notes}, sort_keys=True)
    header = f'{{"checksum": "{_NONE.decode()}", {header[1:]}'
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = memoryview(safetensors.torch.save(data, {_HEADER: header}))
    assert content[8:_AT] == _BEFORE
    with atomic(path) as file:
        file.write(content[:_AT])
        file.write(xxh3_64_hexdigest(content).encode())
        file.write(content[_AT_END:])


def verify(path: Path) -> dict[str, Any]:
    """Read a whole file; its header, or DamagedError when any byte is not as ``write_tensors`` wrote it."""
    with _opening(path), path.open("rb") as file:
        head = _head(file)
        state = _hash_of(head)
        while part := file.read(_PART):
            state.update(part)
    return _verified(path, head, state)


def _head(file: BinaryIO) -> bytes:
    """A file up to its values: the length of what follows, and JSON."""
    start = file.read(8)
    return start + file.read(min(int.from_bytes(start, "little"), os.fstat(file.fileno()).st_size))


def _hash_of(head: bytes) -> xxh3_64:
    state = xxh3_64(head[:_AT] + _NONE)
    state.update(head[_AT_END:])
    return state


def _verified(path: Path, head: bytes, state: xxh3_64) -> dict[str, Any]:
    """The header of a file with this hash of the whole; DamagedError when it has another checksum."""
    if head[_AT:_AT_END] != state.hexdigest().encode():
        raise _not_as_written(path, "its checksum differs")
    try:
        metadata = json.loads(head[8:])["__metadata__"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _not_as_written(path, "its header cannot be read") from error
    return _header_of(path, metadata)


def read_header(path: Path) -> dict[str, Any]:
    """The header ``write_tensors`` gave a file, whose values are not read; InputError naming a file that has none."""
    with _opening(path), safe_open(path, framework="pt") as file:
        return _header_of(path, file.metadata())


def _header_of(path: Path, metadata: Any) -> dict[str, Any]:
    """What ``write_tensors`` put into the metadata of a file."""
    try:
        header = json.loads(metadata[_HEADER])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _not_as_written(path, "its header cannot be read") from error
    if not isinstance(header, dict) or not isinstance(header.get("settings"), dict) or not _are_ids(header):
        raise _not_as_written(path, "its header lacks what every artefact has")
    return header


def _are_ids(header: Mapping[str, Any]) -> bool:
    """Whether the image ids of a header, if it has any, are a list of texts."""
    ids = header.get("ids", [])
    return isinstance(ids, list) and {*map(type, ids)} <= {str}


def read_tensors(path: Path, *needed: str) -> dict[str, Tensor]:
    """All tensors of a file; DamagedError naming one that is not as it was written or lacks one of those ``needed``."""
    return read_whole(path, *needed)[0]


def read_whole(path: Path, *needed: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file and its header, as `read_tensors`."""
    with _opening(path), path.open("rb") as file, safe_open(path, framework="pt") as mapped:
        head = _head(file)
        tensors = {name: mapped.get_tensor(name) for name in mapped.offset_keys()}
    state = _hash_of(head)
    for tensor in tensors.values():  # in the order of the file; read from it here, as they are mapped into memory
        state.update(tensor.flatten().view(torch.uint8).numpy())
    header = _verified(path, head, state)
    if absent := [name for name in needed if name not in tensors]:
        raise damaged(path, f"it has no {absent[0]}")
    return tensors, header


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise _not_as_written(path, " ".join(str(error).split())) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _not_as_written(path: Path, reason: str) -> InputError:
    """DamagedError, or InputError where the file does not begin like one of ours: nobody else's file is made again."""
    with path.open("rb") as file:
        start = file.read(_AT)[8:]
    differing = sum(one != other for one, other in zip(start, _BEFORE, strict=False))
    if len(start) == len(_BEFORE) and differing > len(_BEFORE) // 2:
        return InputError(f"{path}: no artefact of xconsensus; move it elsewhere")
    return damaged(path, reason)


class Shards:
    """Records of images in a folder of immutable shards: one array of values an image, and some numbers beside it.

    A shard holds ``values`` (the images' arrays, flattened, in a row), ``offsets`` (n + 1, int64: image i owns
    values[offsets[i]:offsets[i+1]]), one tensor (n,) a field, and in its header the image ids and one array's shape
    where that is the same for all. With ``packed``, values are float16 of values / scale with a float64 ``scale``
    an image: SmoothGrad maps are far below what float16 holds, their ratios are not.
    """

    def __init__(self, folder: Path, settings: Settings, *, packed: bool = False) -> None:
        self.folder = folder
        self.settings = settings
        self.packed = packed
        self._shard: tuple[str, dict[str, Tensor]] | None = None
        self._wanted = as_json(settings)
        self._checked: set[str] = set()
        self._left_out: set[str] = set()

    @cached_property
    def index(self) -> Mapping[str, tuple[str, int]]:
        """Image id -> (name of its shard, position).

        Of shards whose images are known from another folder, the first one's header is checked, the others' when their
        values are read: an index of 100,000 files takes seconds.
        """
        names = self._names()
        for number, name in enumerate(names):
            if name not in self._checked and (number == 0 or name not in _ids):
                self._check(name, read_header(self.folder / name))
        return _index(tuple(names))

    def refresh(self) -> None:
        """Look again at what the folder holds; headers that were read are not read again, as shards never change."""
        self.__dict__.pop("index", None)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that no shard holds, in order."""
        index = self.index
        return [image_id for image_id in ids if image_id not in index]

    def inspect(self, values: bool = True) -> list[DamagedError | SettingsError]:
        """Read every shard whole, or its header alone: what is wrong with those that count as missing from now on."""
        errors: list[DamagedError | SettingsError] = []
        read = verify if values else read_header
        for name in self._names():
            try:
                self._check(name, read(self.folder / name))
            except (DamagedError, SettingsError) as error:
                errors.append(error)
                self._left_out.add(name)
        self.refresh()
        return errors

    def note(self, name: str) -> Any:
        """A note in the header of the first shard, None where there is none."""
        return next((read_header(self.folder / shard).get(name) for shard, _ in self.index.values()), None)

    def path(self, ids: Sequence[str]) -> Path:
        """The shard that holds these images and no others: a file's name follows from its ids."""
        return self.folder / _name_of(ids)

    def write(
        self,
        ids: Sequence[str],
        arrays: Sequence[Tensor],
        fields: Mapping[str, Tensor] | None = None,
        **notes: Any,
    ) -> None:
        """One new shard: an array and a number of each field for each id, notes. Its name follows from the ids."""
        lengths = torch.tensor([0, *(array.numel() for array in arrays)])
        flat = [array.detach().cpu().flatten() for array in arrays]
        tensors = {"offsets": lengths.cumsum(0), **(fields or {})}
        if self.packed:
            scales = [array.abs().max().double().clamp_min(torch.finfo(torch.float32).tiny) for array in flat]
            flat = [(array.double() / scale).half() for array, scale in zip(flat, scales, strict=True)]
            tensors["scale"] = torch.stack(scales)
        tensors["values"] = torch.cat(flat)
        path = self.path(ids)
        write_tensors(path, tensors, self.settings, ids=list(ids), shape=list(arrays[0].shape), **notes)
        self._left_out.discard(path.name)
        self.refresh()

    def values(self, image_id: str) -> Tensor:
        """The flat array of one image, (K,), float32 when packed; InputError naming an image that is not there."""
        values = self.stored(image_id)
        shard, position = self._record(image_id)
        return values.float() * float(shard["scale"][position]) if self.packed else values

    def stored(self, image_id: str) -> Tensor:
        """The flat array as it lies on disk, (K,): when packed, float16 and right up to a positive factor."""
        shard, position = self._record(image_id)
        start, stop = shard["offsets"][position : position + 2].tolist()
        return shard["values"][start:stop]

    def blocks(self, ids: Sequence[str], size: int) -> Iterator[tuple[slice, Tensor]]:
        """The arrays of ``ids`` as `values` has them, at most ``size`` in one tensor (n, K), with their place in ids.

        Together are images that lie one after the other in a shard and have equally many values.
        """
        start = 0
        while start < len(ids):
            shard, first = self._record(ids[start])
            name, offsets = self.index[ids[start]][0], shard["offsets"][first : first + size + 1].tolist()
            stop, length = start + 1, offsets[1] - offsets[0]
            while (
                stop < min(start + size, len(ids))
                and self.index.get(ids[stop]) == (name, first + stop - start)
                and offsets[stop - start + 1] - offsets[stop - start] == length
            ):
                stop += 1
            values = shard["values"][offsets[0] : offsets[stop - start]].view(stop - start, length)
            if self.packed:
                values = values.float().mul_(shard["scale"][first : first + stop - start, None].float())
            yield slice(start, stop), values
            start = stop

    def number(self, image_id: str, name: str) -> float:
        """One field of one image, such as the predicted class of an explanation; NaN where the shard has none."""
        shard, position = self._record(image_id)
        return float(shard[name].numpy()[position]) if name in shard else float("nan")

    def fetch(self, ids: Iterable[str]) -> None:
        """Have the system read the shards of some images while something else is done, where it takes such advice."""
        for name in {self.index[image_id][0] for image_id in ids if image_id in self.index}:
            with suppress(AttributeError, OSError), (self.folder / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def release(self) -> None:
        """Forget the shard in memory."""
        self._shard = None

    def _names(self) -> list[str]:
        """The shards' file names, without those left out; texts, as paths take ten times as long to make and sort."""
        return sorted({*glob("*.safetensors", root_dir=self.folder)} - self._left_out)

    def _check(self, name: str, header: dict[str, Any]) -> None:
        """Check a shard's settings and name; SettingsError or DamagedError."""
        path = self.folder / name
        if header["settings"] != self._wanted:
            verify(path)  # a flipped byte in the header is damage, not another setting
            check_settings(path, header["settings"], self._wanted)
        _check_name(path, header.get("ids", []))
        self._checked.add(name)

    def _record(self, image_id: str) -> tuple[dict[str, Tensor], int]:
        if image_id not in self.index:
            raise InputError(f"{self.folder}: holds nothing of image {image_id}; run the stage that makes it")
        name, position = self.index[image_id]
        if self._shard is None or self._shard[0] != name:  # one shard at a time: images are visited in shard order
            self._shard = (name, self._read(name))
        if position + 1 >= len(self._shard[1]["offsets"]):
            raise damaged(self.folder / name, f"it has no values of image {image_id}")
        return self._shard[1], position

    def _read(self, name: str) -> dict[str, Tensor]:
        path = self.folder / name
        shard, header = read_whole(path, "offsets", "values", *(["scale"] if self.packed else []))
        self._check(name, header)
        if not _is_shard(shard):
            raise damaged(path, "its tensors do not belong together")
        return shard


# The ids of every shard that was looked at. A committee's members have shards of the same names, so of the same images:
# what 200 members of 100,000 images need is one such list and one such index, not 200.
_ids: dict[str, list[str]] = {}


def _name_of(ids: Sequence[str]) -> str:
    return f"{hashlib.sha256('/'.join(ids).encode()).hexdigest()[:16]}.safetensors"


def _check_name(path: Path, ids: list[str]) -> None:
    """DamagedError when a shard's name is not that of its ids."""
    if _ids.get(path.name) == ids:
        return
    if path.name != _name_of(ids):
        raise damaged(path, "it holds the images of another shard")
    _ids[path.name] = ids


@lru_cache(maxsize=4)
def _index(names: tuple[str, ...]) -> Mapping[str, tuple[str, int]]:
    """Image id -> (name of its shard, position), for shards whose names were checked."""
    return {image_id: (name, position) for name in names for position, image_id in enumerate(_ids[name])}


def _is_shard(tensors: Mapping[str, Tensor]) -> bool:
    """Whether offsets cut the values into pieces and every other tensor has one number a piece."""
    others = dict(tensors)
    offsets, values = others.pop("offsets"), others.pop("values")
    if offsets.ndim != 1 or offsets.dtype != torch.int64 or values.ndim != 1:
        return False
    inside = (offsets >= 0) & (offsets <= len(values))  # before differences, which would overflow
    return bool(inside.all() and (offsets.diff() >= 0).all()) and all(
        tensor.shape == (len(offsets) - 1,) for tensor in others.values()
    )
