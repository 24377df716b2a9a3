"""Oxford's 17 flowers with segmentations of 846 of the 1360 photographs (Nilsback and Zisserman 2006)."""

import csv
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xconsensus.datasets.images import ImageFiles, as_its_image, checked_mask, read_mask
from xconsensus.datasets.official import folder_of_masks, need, part_of, present
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError
from xconsensus.seeding import generator

_SITE = "www.robots.ox.ac.uk/~vgg/data/flowers/17"
_A_CLASS = 80
_SPLITS = {"train": 40, "validation": 20, "test": 20}  # images of each class, as in the official splits
_FLOWER, _VOID = 255, 128


class Flowers17(ImageFiles):
    """jpg/image_0001.jpg and on below ``root``, 80 of each class in turn, classes.csv (index, name) and masks/.

    Each class is split into 40 images to train on, 20 for validation and 20 to test, drawn by ``split_seed``.
    ``masks`` is the folder of masks inside or beside ``root``, None to do without: image_0001.png and on, 255 the
    flower, 0 its surroundings, 128 pixels that count for neither. Some images have none.

    Raises InputError for missing files, and a table of classes of another form.
    """

    some_without_mask = True
    image_keys = ("split_seed",)  # it shapes no pixels, but what weights were trained on must not be tested
    mask_keys: tuple[str, ...] = ()

    def __init__(self, *, root: str, masks: str | None = "masks", split_seed: int = 0) -> None:
        self.root, self.split_seed = Path(root), split_seed
        table = self.root / "classes.csv"
        fetch = f"get 17flowers.tgz from {_SITE}, and write its classes' names into classes.csv (index,name)"
        need((self.root, self.root / "jpg", table), fetch)
        self.masks = folder_of_masks(self.root, masks, f"get the masks from {_SITE}") if masks else None
        self.classes = _classes(table)

    @property
    def has_masks(self) -> bool:
        return self.masks is not None

    def records(self, split: str) -> list[Record]:
        part_of(_SPLITS, split)
        ends = accumulate(_SPLITS.values())
        start, end = next((end - _SPLITS[name], end) for name, end in zip(_SPLITS, ends, strict=True) if name == split)
        named = []
        for label in range(len(self.classes)):
            order = torch.randperm(_A_CLASS, generator=generator(self.split_seed, "flowers17", label)).tolist()
            numbers = (label * _A_CLASS + place + 1 for place in order[start:end])
            named += [Record(name := f"image_{n:04}", label, str(self.root / f"jpg/{name}.jpg")) for n in numbers]
        return present(named, self.root / "classes.csv")

    def mask(self, record: Record) -> NDArray[np.bool_]:
        path, values, image = self._values(record)
        return checked_mask(values == _FLOWER, image, path, record.path, f"no pixel is {_FLOWER}")

    def void(self, record: Record) -> NDArray[np.bool_]:
        """The pixels (H, W) that belong neither to the flower nor to its surroundings."""
        return np.asarray(self._values(record)[1] == _VOID)

    def mask_file(self, record: Record) -> Path:
        """Where the mask of an image lies; InputError where it has none."""
        assert self.masks is not None
        if not (path := self.masks / f"{record.image_id}.png").is_file():
            raise InputError(f"{path}: no such file: image {record.path} has no mask, as many of this data set")
        return path

    def _values(self, record: Record) -> tuple[Path, NDArray[np.number], NDArray[np.uint8]]:
        """The file of a mask, its numbers (H, W), and the image (H, W, 3); InputError for another number."""
        path, image = self.mask_file(record), self.image(record)
        values = as_its_image(read_mask(path), path, Path(record.path), image.shape)
        if other := set(np.unique(values).tolist()) - {0, _VOID, _FLOWER}:
            raise InputError(f"{path}: mask has the value {min(other)}, none of 0, {_VOID} and {_FLOWER}")
        return path, values, image


def _classes(table: Path) -> tuple[str, ...]:
    """The names in classes.csv, in the order of their indices; InputError where these do not count from 0."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = {int(row["index"]): str(row["name"]) for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{table}: cannot be read as a table of index and name ({error})") from error
    if not rows or sorted(rows) != list(range(len(rows))):
        raise InputError(f"{table}: the indices are not 0, 1 and on: {', '.join(map(str, sorted(rows)[:5]))}")
    return tuple(rows[index] for index in range(len(rows)))
