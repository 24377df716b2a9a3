"""What own code gives as images, masks and records, turned into what docs/extending.md asks for, or refused."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xconsensus.datasets.files import check_name
from xconsensus.datasets.images import checked_mask, on_white, read_rgb
from xconsensus.datasets.records import Record, Wrapped
from xconsensus.errors import CommonError, InputError

_OVERSHOOT = 0.02  # of floats that were resampled


class OwnDataset(Wrapped):
    """A data set of own code: ids are unique, images uint8 RGB (H, W, 3), masks bool (H, W); all else is its own.

    Raises InputError naming ``loader`` and the image where what it gave is not so and can mean more than one thing.
    """

    def __init__(self, dataset: Any, loader: str) -> None:
        super().__init__(dataset)
        self._name = f"dataset.loader={loader}"
        self._ranges: dict[int, str] = {}  # an image of each range of floats: only one of them can be meant

    @property
    def classes(self) -> Sequence[str]:
        return self.dataset.classes  # type: ignore[no-any-return]

    @property
    def has_masks(self) -> bool:
        return bool(self.dataset.has_masks)

    def records(self, split: str) -> list[Record]:
        seen: dict[str, Record] = {}
        for record in self.dataset.records(split):
            image_id = getattr(record, "image_id", None)
            if not isinstance(image_id, str):
                raise InputError(f"{self._name}: {record!r} of split {split} is no Record with a text as image_id")
            check_name(image_id)
            if image_id in seen:
                paths = " and ".join(str(each.path) for each in (seen[image_id], record) if each.path)
                raise InputError(
                    f"{self._name}: image_id {image_id!r} stands twice in split {split}{paths and f' ({paths})'}: ids"
                    " must be unique, as paths below dataset.root are"
                )
            seen[image_id] = self._labelled(record)
        return list(seen.values())

    def _labelled(self, record: Record) -> Record:
        """The record, whose label is a whole number, as an int where it is one of NumPy's or a float."""
        given: Any = record.label
        try:
            label = int(given)
            is_whole = not isinstance(given, str) and label == given
        except (TypeError, ValueError, OverflowError):
            is_whole = False
        if not is_whole:
            raise InputError(
                f"{self._name}: the label of {record.image_id!r} is {given!r}: give the place of its class in classes,"
                " from 0, or -1 where it is unknown"
            )
        return record if type(given) is int or not isinstance(record, Record) else replace(record, label=label)

    def image(self, record: Record) -> NDArray[np.uint8]:
        value = self._given("image", record)
        if isinstance(value, Image.Image) and value.mode[0] not in "IF":
            return np.asarray(on_white(value))
        pixels = _channels_last(_array(value), (1, 3, 4))
        eight = pixels if pixels is None or pixels.dtype == np.uint8 else self._in_bytes(pixels, record)
        if eight is None:
            raise self._refusal("image", record, value, "uint8 RGB (H, W, 3), which members normalise themselves")
        if eight.ndim == 2 or eight.shape[2] == 1:
            if _is_coloured(record.path):
                right = "its colours, or the grey in three channels where that is meant"
                raise self._refusal("image", record, value, f"{right}; {record.path} is in colour")
            return np.repeat(eight.reshape(*eight.shape[:2], 1), 3, axis=2)
        return eight if eight.shape[2] == 3 else np.asarray(on_white(Image.fromarray(eight)))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        mask = self._mask(self._given("mask", record), record)
        source = Path(f"{self._name}, mask of {record.image_id}")
        return checked_mask(mask, self.image(record), source, record.path, "no pixel is true")

    def _mask(self, value: Any, record: Record) -> NDArray[np.bool_]:
        mask = _channels_last(_array(value), (1, 3))
        if mask is not None and mask.ndim == 3 and (mask == mask[..., :1]).all():
            mask = mask[..., 0]
        if mask is None or mask.ndim == 3 or not np.isin(mask, (0, 1 if mask.max() == 1 else 255)).all():
            raise self._refusal("mask", record, value, "bool (H, W)")
        return np.asarray(mask > 0)

    def _in_bytes(self, pixels: NDArray[Any], record: Record) -> NDArray[np.uint8] | None:
        """Pixels of another kind than uint8 that are 0..255 or, as floats, 0..1; None where they may be neither."""
        if pixels.dtype.kind not in "fiu":
            return None
        lowest, highest, floats = pixels.min(), pixels.max(), pixels.dtype.kind == "f"
        white = 1 if floats and highest <= 1 + _OVERSHOOT else 255
        edge = white * _OVERSHOOT * floats
        # what is nowhere brighter than 1/16 of 255 may be of another range, but for black
        fits = highest == 0 or white == 1 or white / 16 <= highest <= white + edge
        if not (fits and lowest >= -edge):
            return None
        if floats and highest > 0:
            self._ranges.setdefault(white, record.image_id)
        if len(self._ranges) == 2:
            raise InputError(
                f"{self._name}: image() gave floats of 0..1 for {self._ranges[1]!r} and of 0..255 for"
                f" {self._ranges[255]!r}: give uint8 of 0..255"
            )
        return np.clip(np.rint(pixels.astype(np.float64) * (255 / white)), 0, 255).astype(np.uint8)

    def _given(self, part: str, record: Record) -> Any:
        try:
            value = getattr(self.dataset, part)(record)
            if isinstance(value, Image.Image):
                value.load()
            return value
        except OSError as error:  # a file that it cannot read
            reason = " ".join(str(error).split())
            raise CommonError(f"{self._name}: {part}() cannot read {record.image_id!r} ({reason})") from error

    def _refusal(self, part: str, record: Record, value: Any, right: str) -> CommonError:
        return CommonError(f"{self._name}: {part}() gave {_words(value)} for {record.image_id!r}: give {right}")


class OwnSeveralObjects(OwnDataset):
    """The same of a data set whose images hold several objects."""

    def instances(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        found = [(name, self._mask(value, record)) for name, value in self._given("instances", record)]
        shape = self.image(record).shape[:2]
        for name, mask in found:
            if mask.shape != shape:
                sizes = f"a {name} of {mask.shape} for an image of {shape}"
                raise CommonError(f"{self._name}: instances() gave {sizes}, {record.image_id!r}")
        return found


def _is_coloured(path: str) -> bool:
    """Whether ``path`` is an image file with colours."""
    with suppress(InputError):
        return bool(path) and bool(np.ptp(read_rgb(Path(path)), axis=2).any())
    return False


def _array(value: Any) -> NDArray[Any]:
    """Arrays, images and tensors of any device as an array; of what is none of them one of objects."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() else value).numpy()
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return np.asarray(None)


def _channels_last(values: NDArray[Any], channels: tuple[int, ...]) -> NDArray[Any] | None:
    """(H, W) or (H, W, channels) of what may be channels first or a batch of one; None for other shapes."""
    while values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.dtype.kind not in "biuf" or not values.size or values.ndim not in (2, 3):
        return None
    if values.ndim == 2 or values.shape[2] in channels:
        return values
    return np.ascontiguousarray(values.transpose(1, 2, 0)) if values.shape[0] in channels else None


def _words(value: Any) -> str:
    array = _array(value)
    if array.dtype.kind not in "biuf" or not array.size:
        return f"{type(value).__name__}{array.shape or ''}"
    return f"{array.dtype} {array.shape} from {float(array.min()):.4g} to {float(array.max()):.4g}"
