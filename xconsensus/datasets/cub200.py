"""Caltech-UCSD Birds-200-2011: 200 species of birds with every annotator's share in the mask (Wah et al. 2011)."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.images import ImageFiles, as_its_image, checked_mask, read_mask
from xconsensus.datasets.official import folder_of_masks, mask_there, need, part_of, present, table
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

_SITE = "data.caltech.edu/records/65de6-vp158"
_FETCH = f"get CUB_200_2011.tgz from {_SITE}, unpack it and give its folder CUB_200_2011 as dataset.root"
_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
_SPLITS = {"train": 1, "test": 0}
_BOXES, BOXES = "bounding_boxes.txt", "boxes"


class CUB200(ImageFiles):
    """The official layout below ``root``: the four lists and images/; an image's id is its name in images.txt.

    ``masks`` is the folder of segmentations inside or beside ``root``, None to do without. Their grey level is the
    share of the annotators who marked the pixel, 255 for all: levels above ``mask_threshold`` are the bird. With
    ``boxes`` in place of a folder, masks are the bounding boxes of bounding_boxes.txt: pixels whose centre lies inside.
    Part locations are not read.

    Raises InputError for missing files and malformed lines.
    """

    image_keys = ()
    mask_keys = ("mask_threshold",)

    def __init__(self, *, root: str, masks: str | None = "segmentations", mask_threshold: int = 127) -> None:
        self.root = Path(root)
        need((self.root, *(self.root / name for name in (*_LISTS, "images"))), _FETCH)
        self.mask_kind = BOXES if masks == BOXES else ""
        archive = f"get the separate archive segmentations.tgz from {_SITE} and unpack it there"
        self.masks = folder_of_masks(self.root, masks, archive) if masks and not self.mask_kind else None
        self.mask_threshold = mask_threshold
        classes, self._images, labels, splits = (
            dict(table(self.root / name, int, kind)) for name, kind in zip(_LISTS, (str, str, int, int), strict=True)
        )
        if not classes:
            raise InputError(f"{self.root / _LISTS[0]}: names no classes")
        order = sorted(classes)
        self.classes = tuple(classes[number] for number in order)
        label_of = {number: label for label, number in enumerate(order)}
        for name, values, known in zip(_LISTS[2:], (labels, splits), (label_of, _SPLITS.values()), strict=True):
            for number in self._images:
                if values.get(number) not in known:
                    found = values.get(number, "no line")
                    raise InputError(
                        f"{self.root / name}: image {number} has {found}, not one of {min(known)}..{max(known)}"
                    )
        self._labels = {number: label_of[labels[number]] for number in self._images}
        self._splits = splits
        self._boxes = self._read_boxes() if self.mask_kind else {}

    def _read_boxes(self) -> dict[str, tuple[float, ...]]:
        """Left, top, width and height of each image's box, in pixels, by image id."""
        path = self.root / _BOXES
        need((path,), _FETCH)
        rows = {number: box for number, *box in table(path, int, float, float, float, float)}
        for number in self._images:
            box = rows.get(number, [])
            if not (box and all(map(math.isfinite, box)) and min(box[2:]) > 0):
                found = f"the box {' '.join(map(str, box))}" if box else "no line"
                raise InputError(f"{path}: image {number} has {found}, not left, top, width and height of one")
        return {name: tuple(rows[number]) for number, name in self._images.items()}

    @property
    def has_masks(self) -> bool:
        return bool(self.masks or self.mask_kind)

    def records(self, split: str) -> list[Record]:
        part, folder = part_of(_SPLITS, split), self.root / "images"
        named = [
            Record(name, self._labels[number], str(folder / name))
            for number, name in self._images.items()
            if self._splits[number] == part
        ]
        return present(named, self.root / "images.txt")

    def mask(self, record: Record) -> NDArray[np.bool_]:
        path, image = self.mask_file(record), self.image(record)
        if self.mask_kind:
            left, top, width, height = self._boxes[record.image_id]
            rows, columns = (np.arange(edge) + 0.5 for edge in image.shape[:2])
            inside = (rows > top) & (rows < top + height), (columns > left) & (columns < left + width)
            return checked_mask(np.logical_and.outer(*inside), image, path, record.path, "its box lies elsewhere")
        rule = f"no pixel above dataset.mask_threshold={self.mask_threshold}"
        mask = as_its_image(read_mask(path), path, Path(record.path), image.shape) > self.mask_threshold
        return checked_mask(mask, image, path, record.path, rule)

    def mask_file(self, record: Record) -> Path:
        """Where the mask of an image lies, or its box is told; InputError where it does not."""
        if self.mask_kind:
            return self.root / _BOXES
        assert self.masks is not None
        return mask_there((self.masks / record.image_id).with_suffix(".png"), record.path)
