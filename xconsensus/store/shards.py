"""Shards: immutable files of many images each, read by image id."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor
from xxhash import xxh3_64

from xconsensus.errors import ContentsError, DamagedError, InputError, SettingsError
from xconsensus.store.contents import Contents
from xconsensus.store.files import remove
from xconsensus.store.folders import damaged
from xconsensus.store.provenance import Settings, as_json, check_settings
from xconsensus.store.tensors import opening, read_header, read_whole, verify, write_tensors


class Shards:
    """Records of images in a folder of immutable shards: one array of values an image, and some numbers beside it.

    A shard holds ``values`` (the images' arrays, flattened, in a row), ``offsets`` (n + 1, int64: image i owns
    values[offsets[i]:offsets[i+1]]), one tensor (n,) a field, and in its header the image ids and one array's shape
    where that is the same for all. With ``packed``, values are float16 of values / scale with a float64 ``scale``
    an image: SmoothGrad maps are far below what float16 holds, their ratios are not.
    """

    def __init__(
        self, folder: Path, settings: Settings, *, packed: bool = False, contents: Contents | None = None
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.packed = packed
        self.contents = contents
        self._shard: tuple[str, dict[str, Tensor]] | None = None
        self._wanted = as_json(settings)
        self._checked: set[str] = set()
        self._left_out: set[str] = set()
        self._changed: set[str] = set()  # images that hold something else than when they were written

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """What lies in a folder of explanations, consensus or superpixels, whatever settings it was made with.

        Raises InputError where it holds nothing, and later for a file of other settings than the first one's.
        """
        first = next(iter(sorted(Path(folder).glob("*.safetensors"))), None)
        if first is None:
            raise InputError(f"{folder}: holds no shards; explanations lie in explanations/<explainer>/<member>")
        with opening(first), safe_open(first, framework="pt") as file:
            packed = "scale" in file.keys()  # noqa: SIM118  (no mapping)
        if "ids" not in (header := read_header(first)):
            raise InputError(f"{first}: its header names no images, so it is no shard")
        return cls(Path(folder), header["settings"], packed=packed)

    @property
    def ids(self) -> list[str]:
        """The ids of all images that it holds."""
        return list(self.index)

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
        return [image_id for image_id in ids if image_id not in index or image_id in self._changed]

    def inspect(self, values: bool = True) -> list[DamagedError | SettingsError]:
        """Read every shard whole, or its header alone: what is wrong with those that count as missing from now on."""
        errors: list[DamagedError | SettingsError] = []
        read = verify if values else read_header
        for name in self._names():
            try:
                self._check(name, read(self.folder / name))
            except ContentsError as error:
                errors.append(error)
                self._changed.update(error.images)
                self._checked.add(name)
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
        scales_of = tensors["scale"].split(1) if self.packed else [None] * len(flat)
        tensors["checksums"] = torch.tensor([_checksum(*piece) for piece in zip(flat, scales_of, strict=True)])
        path = self.path(ids)
        if self.contents:
            notes["contents"] = self.contents.of(ids)
        notes = {"shape": list(arrays[0].shape), **notes}
        write_tensors(path, tensors, self.settings, ids=list(ids), **notes)
        self._left_out.discard(path.name)
        self._changed.difference_update(ids)
        self.refresh()

    def discard(self, error: DamagedError | SettingsError) -> None:
        """Remove a file with which something is wrong, but for those of its images that have not changed."""
        if isinstance(error, ContentsError):
            self._keep_others(error)
        remove(error.path)
        self.refresh()

    def _keep_others(self, error: ContentsError) -> None:
        """Write the images of a shard that have not changed into a shard of their own."""
        shard, header = read_whole(error.path, "offsets", "values")
        kept = [place for place, image_id in enumerate(header["ids"]) if image_id not in error.images]
        if not kept:
            return
        offsets, scale = shard.pop("offsets"), shard.pop("scale", None)
        pieces = shard.pop("values").tensor_split(offsets[1:-1])
        arrays = [pieces[place] if scale is None else pieces[place].double() * scale[place] for place in kept]
        fields = {name: numbers[kept] for name, numbers in shard.items() if name != "checksums"}
        notes = {name: note for name, note in header.items() if name not in _OWN_NOTES}
        self.write([header["ids"][place] for place in kept], arrays, fields, **notes)

    def values(self, image_id: str) -> Tensor:
        """The flat array of one image, (K,), float32 when packed; InputError naming an image that is not there."""
        values = self.stored(image_id)
        shard, position = self._row(image_id)
        return values.float() * float(shard["scale"][position]) if "scale" in shard else values

    def value(self, image_id: str) -> Tensor:
        """`values` of one image, read without the others of its file and checked by a checksum of its own.

        Of files written before there were such checksums the whole is read.
        """
        name, position = self._place(image_id)
        path = self.folder / name
        with opening(path), safe_open(path, framework="pt") as file:
            if "checksums" not in file.keys():  # noqa: SIM118  (no mapping)
                return self.values(image_id)
            checksum = file.get_slice("checksums")[position]
            start, stop = file.get_slice("offsets")[position : position + 2].tolist()
            values: Tensor = file.get_slice("values")[start:stop]
            scale = file.get_slice("scale")[position] if "scale" in file.keys() else None  # noqa: SIM118
        if int(checksum) != _checksum(values, scale):
            raise damaged(path, f"the checksum of image {image_id} differs")
        if name not in self._checked:
            self._check(name, read_header(path))
        return values if scale is None else values.float() * float(scale)

    def stored(self, image_id: str) -> Tensor:
        """The flat array as it lies on disk, (K,): when packed, float16 and right up to a positive factor."""
        shard, position = self._row(image_id)
        start, stop = shard["offsets"][position : position + 2].tolist()
        return shard["values"][start:stop]

    def blocks(self, ids: Sequence[str], size: int) -> Iterator[tuple[slice, Tensor]]:
        """The arrays of ``ids`` as `values` has them, at most ``size`` in one tensor (n, K), with their place in ids.

        Together are images that lie one after the other in a shard and have equally many values.
        """
        start = 0
        while start < len(ids):
            shard, first = self._row(ids[start])
            name, offsets = self.index[ids[start]][0], shard["offsets"][first : first + size + 1].tolist()
            stop, length = start + 1, offsets[1] - offsets[0]
            while (
                stop < min(start + size, len(ids))
                and self.index.get(ids[stop]) == (name, first + stop - start)
                and offsets[stop - start + 1] - offsets[stop - start] == length
            ):
                stop += 1
            values = shard["values"][offsets[0] : offsets[stop - start]].view(stop - start, length)
            if "scale" in shard:
                values = values.float().mul_(shard["scale"][first : first + stop - start, None].float())
            yield slice(start, stop), values
            start = stop

    def number(self, image_id: str, name: str) -> float:
        """One field of one image, such as the predicted class of an explanation; NaN where the shard has none."""
        shard, position = self._row(image_id)
        return float(shard[name].numpy()[position]) if name in shard else float("nan")

    def numbers(self, ids: Sequence[str], name: str) -> NDArray[np.float64]:
        """`number` of many images (n,), of whose shards no values are read: nothing is checked by the checksum."""
        found: dict[str, NDArray[Any] | None] = {}
        for shard in {self._place(image_id)[0] for image_id in ids}:
            with opening(self.folder / shard), safe_open(self.folder / shard, framework="np") as file:
                found[shard] = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118  (no mapping)
        every = np.full(len(ids), np.nan)
        for row, image_id in enumerate(ids):
            shard, position = self._place(image_id)
            if (column := found[shard]) is not None:
                if position >= len(column):
                    raise damaged(self.folder / shard, f"it has no {name} of image {image_id}")
                every[row] = column[position]
        return every

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
        """Check a shard's settings, its name and what its images held; SettingsError or DamagedError."""
        path = self.folder / name
        if header["settings"] != self._wanted:
            verify(path)  # a flipped byte in the header is damage, not another setting
            check_settings(path, header["settings"], self._wanted)
        ids = header.get("ids", [])
        _check_name(path, ids)
        if self.contents and (changed := self.contents.changed(ids, header.get("contents"))):
            others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            what = f"image {changed[0]}{others} held something else then, or the class to explain was another"
            raise ContentsError(path, changed, what if self.contents.labelled else "")
        self._checked.add(name)

    def _row(self, image_id: str) -> tuple[dict[str, Tensor], int]:
        name, position = self._place(image_id)
        if self._shard is None or self._shard[0] != name:  # one shard at a time: images are visited in shard order
            self._shard = (name, self._read(name))
        if position + 1 >= len(self._shard[1]["offsets"]):
            raise damaged(self.folder / name, f"it has no values of image {image_id}")
        return self._shard[1], position

    def _place(self, image_id: str) -> tuple[str, int]:
        """An image's shard and its position there; InputError for one that no shard holds."""
        if image_id not in self.index:
            raise InputError(f"{self.folder}: holds nothing of image {image_id}; run the stage that makes it")
        return self.index[image_id]

    def _read(self, name: str) -> dict[str, Tensor]:
        path = self.folder / name
        shard, header = read_whole(path, "offsets", "values", *(["scale"] if self.packed else []))
        self._check(name, header)
        if not _is_shard(shard):
            raise damaged(path, "its tensors do not belong together")
        return shard


# what `write_tensors` and `Shards.write` put into a header by themselves
_OWN_NOTES = ("checksum", "settings", "versions", "ids", "contents")

# The ids of every shard that was looked at. A committee's members have shards of the same names, so of the same images:
# what 200 members of 100,000 images need is one such list and one such index, not 200.
_ids: dict[str, list[str]] = {}


def _checksum(values: Tensor, scale: Tensor | None) -> int:
    """XXH3 (64 bits, as a signed number) of an image's values, their kind, and their scale if they have one."""
    state = xxh3_64(f"{values.dtype} {'' if scale is None else float(scale).hex()}".encode())
    state.update(values.contiguous().view(torch.uint8).numpy().data)
    return int(np.uint64(state.intdigest()).astype(np.int64))


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
