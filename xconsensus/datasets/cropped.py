"""Images as a committee sees them: the short edge resized, the centre cut out, and their masks likewise."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.first_classes import whole
from xconsensus.datasets.images import (
    ImageFiles,
    center_crop,
    check_resized,
    crop_edges,
    looks_inverted,
    resize_and_crop,
    resized_shape,
    short_edge,
    upright_size,
)
from xconsensus.datasets.records import Dataset, Record
from xconsensus.errors import CommonError, InputError
from xconsensus.progress import log, say_once

Scalar = TypeVar("Scalar", bound=np.generic)

_TRIED = 5  # masks that are read before anything is spent


class Place(NamedTuple):
    """Where explained pixels lie in the whole image of ``shape`` (H, W): resize and crop undone.

    Row k of the explained image is rows[k] to rows[k + 1] - 1 of the whole one, none where the whole one is smaller;
    columns likewise (`crop_edges`).
    """

    shape: tuple[int, int]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def undone(self, pixels: NDArray[Scalar], outside: float) -> NDArray[Scalar]:
        """The whole image's (H, W) of explained ``pixels`` (size, size), each as it is; ``outside`` around the crop."""
        whole = np.full(self.shape, outside, pixels.dtype)
        (top, bottom), (left, right) = self.rows[[0, -1]], self.columns[[0, -1]]
        whole[top:bottom, left:right] = pixels.repeat(np.diff(self.rows), 0).repeat(np.diff(self.columns), 1)
        return whole

    def boxes(self, boxes: NDArray[np.intp]) -> NDArray[np.intp]:
        """Boxes (n, 4) of explained pixels (left, top, right, bottom; the last two outside) as such of the whole image.

        One that lies between two pixels' centres, where the whole image is the smaller, gets one pixel.
        """
        height, width = self.shape
        left, right = np.minimum(self.columns[boxes[:, 0]], width - 1), self.columns[boxes[:, 2]]
        top, bottom = np.minimum(self.rows[boxes[:, 1]], height - 1), self.rows[boxes[:, 3]]
        return np.stack([left, top, np.maximum(right, left + 1), np.maximum(bottom, top + 1)], axis=1)

    def counts(self, mask: NDArray[np.bool_]) -> NDArray[np.int32]:
        """How many pixels of a ``mask`` (H, W) of the whole image each explained pixel (size, size) covers."""
        sums = np.pad(mask, ((1, 0), (1, 0))).cumsum(0, dtype=np.int32).cumsum(1)
        return np.diff(np.diff(sums[np.ix_(self.rows, self.columns)], axis=0), axis=1)


@dataclass
class CroppedImages:
    """A data set's images with their short edge at ``resize`` and a centre crop of ``size`` pixels a side.

    What is made of them is kept in memory up to ``room`` bytes. With ``skip_bad``, `usable` leaves out what cannot be
    read, or were huge at ``largest``, the largest ``resize`` that is asked for.
    """

    dataset: Dataset
    resize: int
    size: int
    room: float = 0
    skip_bad: bool = False
    largest: int = 0
    _kept: dict[tuple[Record, Hashable], NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    _sizes: dict[Record, tuple[int, int]] = field(default_factory=dict, repr=False)
    _inverted: dict[Record, float] = field(default_factory=dict, repr=False)  # share of the image that a mask covers

    def made(
        self, record: Record, how: Hashable, make: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """What ``make`` makes of the whole image, RGB uint8 (H, W, 3); ``how`` equals another only if ``make`` does."""
        key = (record, how)
        if key not in self._kept:
            whole = self.dataset.image(record)
            try:
                check_resized(whole.shape, max(self.resize, self.largest))
            except InputError as error:
                raise CommonError(f"{record.path or record.image_id}: {error}") from error
            pixels = make(whole)
            if pixels.nbytes > self.room:
                return pixels
            self.room -= pixels.nbytes
            self._kept[key] = pixels
        return self._kept[key]

    def resized(self, record: Record, resize: int, interpolation: str = "bicubic") -> NDArray[np.uint8]:
        """The whole image, RGB uint8 (H, W, 3), its short edge at ``resize``."""
        make = partial(short_edge, size=resize, interpolation=interpolation)
        return self.made(record, (resize, interpolation), make)

    def source_size(self, record: Record) -> tuple[int, int]:
        """Width and height of the whole image, from the file's header where the loader is known to give it as it is."""
        if record not in self._sizes:
            size = upright_size(Path(record.path)) if isinstance(whole(self.dataset), ImageFiles) else None
            self._sizes[record] = size or self.dataset.image(record).shape[1::-1]
        return self._sizes[record]

    def image(self, record: Record) -> NDArray[np.uint8]:
        """The image as it is explained, RGB uint8 (size, size, 3)."""
        return np.ascontiguousarray(center_crop(self.resized(record, self.resize), self.size))

    def place(self, record: Record) -> Place:
        """Where the explained pixels lie in the whole image."""
        width, height = self.source_size(record)
        tall, wide = resized_shape((height, width), self.resize)
        return Place((height, width), crop_edges(height, tall, self.size), crop_edges(width, wide, self.size))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        """The object's mask on the explained image, (size, size)."""
        mask = self.dataset.mask(record)
        if getattr(self.dataset, "mask_invert", None) is None and looks_inverted(mask):
            self._inverted[record] = float(mask.mean())
        return self._cropped(mask)

    def say_inverted(self, records: Sequence[Record]) -> None:
        """A line about those of ``records`` whose masks, all read by `mask` before, look inverted; unless the user has
        said what they are.
        """
        if not (found := [record for record in records if record in self._inverted]):
            return
        where = getattr(self.dataset, "mask_file", lambda record: record.image_id)
        some = ", ".join(f"{where(record)} ({self._inverted[record]:.0%} of the image)" for record in found[:4])
        how = "save them the other way round"
        if "mask_invert" in getattr(self.dataset, "mask_keys", ()):
            how = f"{'set' if len(found) == len(records) else how + ', or where all are set'} dataset.mask_invert=true"
        say_once(
            f"warning: {len(found)} of {len(records)} masks cover the border of the image and leave out what it"
            f" surrounds, as inverted ones do: {some}{', ...' * (len(found) > 4)}; if they are inverted, {how}"
        )

    def void(self, record: Record) -> NDArray[np.bool_] | None:
        """The pixels (size, size) of the explained image that no score counts; None where none are known."""
        found = self.dataset.void(record) if hasattr(self.dataset, "void") else None
        return None if found is None else self._cropped(found)

    def find_masks(self, records: Sequence[Record]) -> None:
        """Say how many of ``records`` have no mask, where the data set can tell without reading any; InputError naming
        the first where all have none, or where none of the first few can be used, as where a folder holds no masks.
        """
        if not (self.dataset.has_masks and hasattr(self.dataset, "mask_file")):
            return
        lacking, there = list[InputError](), list[Record]()
        for record in records:
            try:
                self.dataset.mask_file(record)
                there.append(record)
            except InputError as error:
                lacking.append(error)
        if lacking and len(lacking) == len(records):
            raise lacking[0]
        if lacking:
            way = "are left out" if self.skip_bad else "must not be chosen to be explained"
            way = "are not explained" if self._some_without_mask else way
            log.info(f"{len(lacking)} of {len(records)} images have no mask and {way}: {lacking[0]}")
        if not self.skip_bad:
            self._try(there[:_TRIED])

    def _try(self, records: Sequence[Record]) -> None:
        """InputError of the first record where no record's mask can be used."""
        refused: list[InputError] = []
        for record in records:
            try:
                self.dataset.mask(record)
                return
            except InputError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def objects(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        """Category and mask (size, size) of each object on the explained image; none if the data set knows of one only.

        Objects that lie outside the crop are left out.
        """
        if not hasattr(self.dataset, "instances"):
            return []
        found = [(category, self._cropped(mask)) for category, mask in self.dataset.instances(record)]
        return [(category, mask) for category, mask in found if mask.any()]

    def categories(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        """The `objects` of each category as one mask, in the order of their first."""
        objects = self.objects(record)
        return [
            (name, np.logical_or.reduce([mask for other, mask in objects if other == name]))
            for name in dict.fromkeys(name for name, _ in objects)
        ]

    def usable(self, records: Sequence[Record], masks: bool = False) -> list[Record]:
        """``records`` whose images (and ``masks``) can be read, the others counted; all of them unless ``skip_bad``.

        With ``masks``, those of a data set that has some without a mask are left out in any case.

        Raises InputError where none can be read.
        """
        if masks and self._some_without_mask:
            count = len(records)
            if not (records := [record for record in records if self._has_mask(record)]):
                raise InputError(f"none of the {count} images to explain has a mask; set dataset.masks=null")
        if not self.skip_bad:
            return list(records)
        kept = [record for record in records if self._is_usable(record, masks)]
        if len(kept) < len(records):
            log.info(f"{len(records) - len(kept)} of {len(records)} images skipped (on_bad_image=skip)")
        if not kept:
            raise InputError(f"none of the {len(records)} images of the data set can be read")
        return kept

    @property
    def _some_without_mask(self) -> bool:
        return getattr(self.dataset, "some_without_mask", False)

    def _has_mask(self, record: Record) -> bool:
        with suppress(InputError):
            getattr(self.dataset, "mask_file")(record)  # noqa: B009
            return True
        return False

    def _is_usable(self, record: Record, masks: bool) -> bool:
        try:
            self.resized(record, self.resize)
            if masks:
                self.dataset.mask(record)
        except InputError as error:
            log.info(f"skipped: {error}")
            return False
        return True

    def _cropped(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return resize_and_crop(mask.astype(np.uint8), self.resize, self.size, "nearest").astype(bool)
