"""Tensors on disk: safetensors files with settings and versions in the header, and shards of many images."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from xxhash import xxh3_64, xxh3_64_hexdigest

from xconsensus.errors import DamagedError, InputError
from xconsensus.store import Settings, as_json, atomic, check_settings, damaged, versions

_HEADER = "xconsensus"  # safetensors keeps a map of strings; one entry, so that equal headers are equal bytes
# The checksum is of the whole file with these digits in its own place, which is the same in every file.
_NONE = b"0" * 16
_BEFORE = b'{"__metadata__":{"xconsensus":"{\\"checksum\\": \\"'
_AT = 8 + len(_BEFORE)  # after the header's length


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
        file.write(content[_AT + len(_NONE) :])


def verify(path: Path) -> None:
    """Read a whole file; DamagedError when any byte is not as ``write_tensors`` wrote it."""
    with _opening(path), path.open("rb") as file:
        head = file.read(_AT + len(_NONE))
        state = xxh3_64(head[:_AT] + _NONE)
        found = hashlib.file_digest(file, lambda: state).hexdigest()
    if head[_AT:] != found.encode():
        raise _not_as_written(path, "its checksum differs")


def read_header(path: Path) -> dict[str, Any]:
    """The header ``write_tensors`` gave a file, whose values are not read; InputError naming a file that has none."""
    with _opening(path), safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_HEADER, "")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
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
    verify(path)
    with _opening(path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator)
    if absent := [name for name in needed if name not in tensors]:
        raise damaged(path, f"it has no {absent[0]}")
    return tensors


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
        self._left_out: set[Path] = set()

    @cached_property
    def index(self) -> Mapping[str, tuple[str, int]]:
        """Image id -> (name of its shard, position); every shard's header is checked for its settings and its name."""
        for path in (paths := self._paths()):
            self._check(path)
        return _index(tuple(path.name for path in paths))

    def refresh(self) -> None:
        """Look again at what the folder holds; headers that were read are not read again, as shards never change."""
        self.__dict__.pop("index", None)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that no shard holds, in order."""
        return [image_id for image_id in ids if image_id not in self.index]

    def leave_out_damaged(self, values: bool = True) -> list[DamagedError]:
        """Read every shard whole, or its header alone; those not as they were written count as missing from now on."""
        errors = []
        for path in self._paths():
            try:
                if values:
                    verify(path)
                header = read_header(path)
                _check_name(path, header.get("ids", []))
                if header["settings"] == self._wanted:
                    self._checked.add(path.name)
            except DamagedError as error:
                errors.append(error)
                self._left_out.add(path)
        self.refresh()
        return errors

    def leave_out_others(self) -> list[Path]:
        """The shards of other settings; they count as missing from now on."""
        others = [path for path in self._paths() if read_header(path)["settings"] != self._wanted]
        self._left_out.update(others)
        self.refresh()
        return others

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
        self._left_out.discard(path)
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
        return float(shard[name][position]) if name in shard else float("nan")

    def release(self) -> None:
        """Forget the shard in memory."""
        self._shard = None

    def _paths(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob("*.safetensors")) if path not in self._left_out]

    def _check(self, path: Path) -> None:
        """Check a shard's header, once."""
        if path.name not in self._checked:
            header = read_header(path)
            if header["settings"] != self._wanted:
                verify(path)  # a flipped byte in the header is damage, not another setting
                check_settings(path, header["settings"], self._wanted)
            _check_name(path, header.get("ids", []))
            self._checked.add(path.name)

    def _record(self, image_id: str) -> tuple[dict[str, Tensor], int]:
        if image_id not in self.index:
            raise InputError(f"{self.folder}: holds nothing of image {image_id}; run the stage that makes it")
        name, position = self.index[image_id]
        path = self.folder / name
        if self._shard is None or self._shard[0] != name:  # one shard at a time: images are visited in shard order
            shard = read_tensors(path, "offsets", "values", *(["scale"] if self.packed else []))
            if not _is_shard(shard):
                raise damaged(path, "its tensors do not belong together")
            self._shard = (name, shard)
        if position + 1 >= len(self._shard[1]["offsets"]):
            raise damaged(path, f"it has no values of image {image_id}")
        return self._shard[1], position


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
