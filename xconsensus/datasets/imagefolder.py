"""Photographs in class folders, with an optional folder of masks beside them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.images import SUFFIXES, as_its_image, checked_mask, read_mask, read_rgb, warn_of_noise
from xconsensus.datasets.mask_files import MaskFolder, masks_among
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError, check_type
from xconsensus.progress import say_once


class ImageFolder:
    """Class folders below ``root``: the folder is the class, an image's id is its path below ``root``.

    ``splits`` maps each split to its folder below ``root`` ("." for root itself); splits may share a folder.
    ``masks`` is a folder of the same layout, or the same folder (see `MaskFolder`); values above ``mask_threshold`` are
    the object, but for ``mask_void``, whose pixels count for nothing.

    ``classes`` gives the order of labels where ``root`` holds some of the classes only, as a list of folder names or as
    "imagenet" for the 1000 sorted WordNet ids; by default the sorted folders of the first split are the classes.
    """

    image_keys: tuple[str, ...] = ()
    mask_keys = ("mask_threshold", "mask_void")

    def __init__(
        self,
        *,
        root: str,
        splits: Mapping[str, str],
        masks: str | None = None,
        mask_threshold: int = 0,
        mask_void: int | None = None,
        classes: list[str] | str | None = None,
    ) -> None:
        self.root = Path(root)
        self.splits = {split: self.root / folder for split, folder in splits.items()}
        self.masks = Path(masks) if masks else None
        self.mask_threshold, self.mask_void = mask_threshold, mask_void
        if mask_void is not None:
            check_type("dataset.mask_void", mask_void, 255)
        for folder in (self.root, *self.splits.values(), *([self.masks] if self.masks else [])):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder (dataset.root, dataset.splits or dataset.masks)")
        self._mask_folder = MaskFolder(self.masks or self.root / "none", self.root)
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

    def mask_file(self, record: Record) -> Path:
        """Where the mask of an image lies; InputError where it has none. Opens no file."""
        return self._mask_folder.file(Path(record.path))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        path, values, image = self._mask_values(record)
        counted = values != self.mask_void
        rule = f"no pixel above dataset.mask_threshold={self.mask_threshold}"
        mask = checked_mask((values > self.mask_threshold) & counted, image, path, record.path, rule)
        if mask[counted].all():
            raise InputError(
                f"{path}: mask is the whole image {record.path}, and any explanation finds that: mask the object alone,"
                f" or where values above dataset.mask_threshold={self.mask_threshold} are none of it, raise that"
            )
        warn_of_noise(values[counted], self.mask_threshold, path)
        return mask

    def void(self, record: Record) -> NDArray[np.bool_] | None:
        """The pixels (H, W) that belong neither to the object nor to its surroundings; None without ``mask_void``."""
        return None if self.mask_void is None else self._mask_values(record)[1] == self.mask_void

    def _mask_values(self, record: Record) -> tuple[Path, NDArray[np.number], NDArray[np.uint8]]:
        """The file of a mask, its numbers (H, W), turned as the image is, and the image (H, W, 3)."""
        path, image = self.mask_file(record), self.image(record)
        return path, as_its_image(read_mask(path, self.mask_void), path, Path(record.path), image.shape), image

    def _class_records(self, folder: Path) -> list[Record]:
        if folder.name not in self._labels:
            raise InputError(f"{folder}: not one of the {len(self.classes)} classes (dataset.classes)")
        files = sorted(
            entry.path
            for entry in os.scandir(folder)
            if entry.is_file() and Path(entry.name).suffix.lower() in SUFFIXES
        )
        files = self._photographs(folder, files)
        if not files:
            raise InputError(f"{folder}: class folder without images; add some or remove the folder")
        label = self._labels[folder.name]
        return [Record(Path(path).relative_to(self.root).as_posix(), label, path) for path in files]

    def _photographs(self, folder: Path, files: list[str]) -> list[str]:
        """The image files of a folder but for those that are masks of others, which a line counts."""
        names = {os.path.basename(file): file for file in files}
        masks = masks_among(names, by_suffix=self.has_masks and self._mask_folder.is_beside)
        if masks:
            (first, image), *_ = masks.items()
            how = "" if self.has_masks else f"; dataset.masks={self.root} uses them"
            say_once(
                f"masks of {self.root}",
                f"{folder}: {len(masks)} of {len(files)} images, as {first} beside {image}, are taken for masks, not"
                f" for photographs, here and in other class folders{how}",
            )
        return [file for name, file in names.items() if name not in masks]


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
