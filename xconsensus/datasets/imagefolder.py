"""Photographs in class folders, with an optional folder of masks beside them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.images import SUFFIXES, checked_mask, read_mask, read_rgb
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError


class ImageFolder:
    """Class folders below ``root``: the folder is the class, an image's id is its path below ``root``.

    ``splits`` maps each split to its folder below ``root`` ("." for root itself); splits may share a folder.
    ``masks`` is a folder of the same layout: the same path, any image suffix; values above ``mask_threshold``
    (0..255) are the object. ``classes`` gives the order of labels where ``root`` holds some of the classes only,
    as a list of folder names or as "imagenet" for the 1000 sorted WordNet ids; by default the sorted folders of the
    first split are the classes.
    """

    image_keys: tuple[str, ...] = ()
    mask_keys = ("mask_threshold",)

    def __init__(
        self,
        *,
        root: str,
        splits: Mapping[str, str],
        masks: str | None = None,
        mask_threshold: int = 0,
        classes: list[str] | str | None = None,
    ) -> None:
        self.root = Path(root)
        self.splits = {split: self.root / folder for split, folder in splits.items()}
        self.masks = Path(masks) if masks else None
        self.mask_threshold = mask_threshold
        for folder in (self.root, *self.splits.values(), *([self.masks] if self.masks else [])):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder (dataset.root, dataset.splits or dataset.masks)")
        if classes == "imagenet":
            classes = imagenet_wnids()
        first = next(iter(self.splits.values()))
        self.classes = tuple(classes or _class_folders(first))
        if not self.classes:
            raise InputError(f"{first}: holds no class folders")
        self._labels = {name: label for label, name in enumerate(self.classes)}

    @property
    def has_masks(self) -> bool:
        return self.masks is not None

    def records(self, split: str) -> list[Record]:
        if split not in self.splits:
            raise InputError(
                f"dataset.splits has no {split!r}, only {', '.join(self.splits)}:"
                f" give its folder with dataset.splits.{split}=FOLDER"
            )
        folder = self.splits[split]
        found = [record for name in _class_folders(folder) for record in self._class_records(folder / name)]
        if not found:
            raise InputError(f"{folder}: holds no images in class folders")
        return found

    def image(self, record: Record) -> NDArray[np.uint8]:
        return read_rgb(Path(record.path))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        assert self.masks is not None
        relative = Path(record.path).relative_to(self.root)
        stem = self.masks / relative.with_suffix("")
        suffixes = (relative.suffix, *sorted(SUFFIXES))
        path = next((p for s in suffixes if (p := stem.with_name(stem.name + s)).is_file()), None)
        if path is None:
            raise InputError(f"{stem}.*: no mask for image {record.path}")
        rule = f"no pixel above dataset.mask_threshold={self.mask_threshold}"
        return checked_mask(read_mask(path) > self.mask_threshold, self.image(record), path, record.path, rule)

    def _class_records(self, folder: Path) -> list[Record]:
        if folder.name not in self._labels:
            raise InputError(f"{folder}: not one of the {len(self.classes)} classes (dataset.classes)")
        files = sorted(
            entry.path
            for entry in os.scandir(folder)
            if entry.is_file() and Path(entry.name).suffix.lower() in SUFFIXES
        )
        if not files:
            raise InputError(f"{folder}: class folder without images; add some or remove the folder")
        label = self._labels[folder.name]
        return [Record(Path(path).relative_to(self.root).as_posix(), label, path) for path in files]


def imagenet_wnids() -> list[str]:
    """The 1000 WordNet ids of ImageNet-1k in the order of the labels (sorted)."""
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    from timm.data import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def class_words(name: str) -> str:
    """A class name for people: "tabby" for ImageNet's n02123045, any other name as it is."""
    if not re.fullmatch(r"n\d{8}", name):
        return name
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    from timm.data import ImageNetInfo

    return str(ImageNetInfo("imagenet-22k").label_name_to_description(name)).split(",")[0]


def _class_folders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
