"""Tensors on disk: safetensors files with settings and versions in the header, and shards of many images."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xconsensus.errors import InputError
from xconsensus.store import Settings, atomic, check_settings, versions

_HEADER = "xconsensus"  # safetensors keeps a map of strings; one entry, so that equal headers are equal bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], settings: Settings, **notes: Any) -> None:
    """A safetensors file of ``tensors`` with ``settings``, ``notes`` (any JSON) and versions in its header."""
    header = {"settings": settings, "versions": versions(), **notes}
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as file:
        file.write(safetensors.torch.save(data, {_HEADER: json.dumps(header, sort_keys=True)}))


def read_header(path: Path) -> dict[str, Any]:
    """The header ``write_tensors`` gave a file; InputError naming a file that is damaged or not ours."""
    with _opened(path) as file:
        try:
            header: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: no artefact of xconsensus; move it elsewhere") from error
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; InputError naming a file that is damaged."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no iterator)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged or unreadable ({reason}); remove it and run its stage again") from error


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
        self._shard: tuple[Path, dict[str, Tensor]] | None = None

    @cached_property
    def index(self) -> dict[str, tuple[Path, int]]:
        """Image id -> (shard, position); every shard's header is checked against the settings."""
        found: dict[str, tuple[Path, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            header = read_header(path)
            check_settings(path, header["settings"], self.settings)
            found |= {image_id: (path, position) for position, image_id in enumerate(header["ids"])}
        return found

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that no shard holds, in order."""
        return [image_id for image_id in ids if image_id not in self.index]

    def note(self, name: str) -> Any:
        """A note in the header of the first shard, None where there is none."""
        return next((read_header(path).get(name) for path, _ in self.index.values()), None)

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
        path = self.folder / f"{hashlib.sha256('/'.join(ids).encode()).hexdigest()[:16]}.safetensors"
        write_tensors(path, tensors, self.settings, ids=list(ids), shape=list(arrays[0].shape), **notes)
        self.__dict__.pop("index", None)

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

    def number(self, image_id: str, name: str) -> float:
        """One field of one image, such as the predicted class of an explanation; NaN where the shard has none."""
        shard, position = self._record(image_id)
        return float(shard[name][position]) if name in shard else float("nan")

    def release(self) -> None:
        """Forget the shard in memory."""
        self._shard = None

    def _record(self, image_id: str) -> tuple[dict[str, Tensor], int]:
        if image_id not in self.index:
            raise InputError(f"{self.folder}: holds nothing of image {image_id}; run the stage that makes it")
        path, position = self.index[image_id]
        if self._shard is None or self._shard[0] != path:  # one shard at a time: images are visited in shard order
            self._shard = (path, read_tensors(path))
        return self._shard[1], position
