"""Photographs in class folders, with an optional folder of masks beside them."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.files import (
    OF_MASKS,
    counted,
    entries,
    is_broken,
    is_folder,
    is_photograph,
    kind_of,
    named,
    photographs,
    subfolders,
)
from xconsensus.datasets.images import ImageFiles, as_its_image, checked_mask, read_mask, warn_of_noise
from xconsensus.datasets.mask_files import MaskFolder, is_called_mask, masks_among
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError
from xconsensus.progress import say_once

# folders that hold class folders, where they hold no photographs themselves
_SPLITS = ("val", "valid", "validation", "test", "testing", "train", "training")
_LEVELS = (*_SPLITS, "data", "dataset", "images", "img", "imgs", "photos", "photographs", "pictures")


class ImageFolder(ImageFiles):
    """Class folders below ``root``, or photographs alone. The folder is the class, an image's id its path below root.

    Photographs in folders below a class folder are of this class too. Folders and files of operating systems, of
    ``masks`` and of xconsensus itself are passed over; other files that are not read are counted in a line.

    ``splits`` maps each split to its folder below ``root`` ("." for root itself), or to the path to that folder; splits
    may share a folder.
    ``masks`` is a folder of the same layout, or the same folder (see `MaskFolder`); values above ``mask_threshold`` are
    the object, or with ``mask_invert`` the others, but for ``mask_void``, whose pixels count for nothing.

    ``classes`` gives the order of labels where ``root`` holds some of the classes only, as a list of folder names or as
    "imagenet" for the 1000 sorted WordNet ids; by default the folders of the first split are the classes, sorted as
    words, or as numbers where all of them are whole numbers. ``classes_before`` are the classes as version 0.1 had
    them: always sorted as words.

    Photographs of a split without class folders have no label. Where no split has any, ``classes`` are empty until
    `take_classes` says how many there are.
    """

    image_keys: tuple[str, ...] = ()
    mask_keys = ("mask_threshold", "mask_void", "mask_invert")

    def __init__(
        self,
        *,
        root: str,
        splits: Mapping[str, str],
        masks: str | None = None,
        mask_threshold: int = 0,
        mask_void: int | None = None,
        mask_invert: bool | None = None,
        classes: list[str] | str | None = None,
    ) -> None:
        self.root = Path(root)
        self.splits = {split: _folder_of(self.root, folder) for split, folder in splits.items()}
        self.masks = Path(masks) if masks else None
        self.mask_threshold, self.mask_void, self.mask_invert = mask_threshold, mask_void, mask_invert
        for folder in (self.root, *self.splits.values(), *([self.masks] if self.masks else [])):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder (dataset.root, dataset.splits or dataset.masks)")
        self._mask_folder = MaskFolder(self.masks or self.root / "none", self.root)
        apart = [*self.splits.values(), *([self.masks] if self.masks and not self._mask_folder.is_beside else [])]
        self._apart = {os.path.realpath(folder) for folder in apart}
        if classes == "imagenet":
            classes = imagenet_wnids()
        elif twice := [name for name, count in Counter(classes or ()).items() if count > 1]:
            raise InputError(f"dataset.classes: names {twice[0]} twice, and a class has one label")
        self._given = classes is not None
        sorted_ones = [folder for folder in self.splits.values() if not self._is_flat(folder)]
        first = next(iter(sorted_ones or self.splits.values()))
        self.classes_before = tuple(classes or (subfolders(first, self._apart) if sorted_ones else ()))
        self.classes = self.classes_before if classes else _ordered(self.classes_before, first)
        if sorted_ones and not self.classes:
            raise InputError(f"{first}: holds no class folders, nor photographs")
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def take_classes(self, count: int) -> None:
        """Have ``count`` classes where there were none: ImageNet's, by their WordNet ids, where it is theirs."""
        self.classes = tuple(imagenet_wnids() if count == 1000 else (f"class {label}" for label in range(count)))

    @property
    def has_masks(self) -> bool:
        return self.masks is not None

    def records(self, split: str) -> list[Record]:
        if split not in self.splits:
            raise InputError(
                f"dataset.splits has no {split!r}, only {', '.join(self.splits)}:"
                f" give its folder with dataset.splits.{split}=FOLDER"
            )
        folder, left_out = self.splits[split], Counter[str]()
        if self._is_flat(folder):
            return self._unlabelled(folder)
        loose = self._loose(folder)
        found = {
            name: self._photographs(folder / name, sorted(photographs(folder / name, left_out)))
            for name in subfolders(folder, self._apart)
        }
        if not self._given:
            _check_level(split, folder, self.root, found)
        records = []
        for name, paths in found.items():
            if name in self._labels and paths:
                records += [self._record(path, self._labels[name]) for path in paths]
            elif not loose:
                raise InputError(self._no_class(split, folder / name, left_out))
            else:
                left_out[f"in {name}, which is no class"] += len(paths)
        names = {os.path.basename(record.path) for record in loose}
        unsorted = [r for r in records if os.path.basename(r.path) not in names]
        left_out["in class folders that lie loose too"] = len(records) - len(unsorted)
        beside = entries(folder)
        lying = {e.name for e in beside if is_photograph(e)}
        left_out["broken link"] += sum(map(is_broken, beside))
        left_out.update(kind_of(e) for e in beside if not (is_folder(e) or is_broken(e) or is_photograph(e)))
        left_out["in no class folder"] = len(lying - names)
        if not (unsorted or loose):
            raise InputError(f"{folder}: holds no images in class folders{_too_low(folder)}")
        if +left_out:
            say_once(f"{folder}: not read: {counted(left_out)}")
        _say_nested(folder, found)
        return sorted(loose + unsorted, key=lambda record: record.image_id) if loose else unsorted

    def _is_flat(self, folder: Path) -> bool:
        """Whether a folder holds photographs, and no folder that may be a class."""
        below = [name for name in subfolders(folder, self._apart) if name.lower() not in OF_MASKS]
        return not below and any(map(is_photograph, entries(folder)))

    def _unlabelled(self, folder: Path) -> list[Record]:
        """The photographs directly in a folder, label -1, with a line that says so."""
        beside, left_out = [each for each in entries(folder) if not is_folder(each)], Counter[str]()
        paths = self._photographs(folder, [named(each).path for each in beside if is_photograph(each)])
        left_out.update("broken link" if is_broken(e) else kind_of(e) for e in beside if not is_photograph(e))
        masks = [name for name in subfolders(folder, self._apart) if name.lower() in OF_MASKS]
        left_out.update(f"folder {name} (masks? dataset.masks={folder / name} uses them)" for name in masks)
        if not paths:
            raise InputError(f"{folder}: holds masks alone, and no photographs")
        if folder.absolute().name in self._labels:
            raise InputError(f"{folder}: the folder of a class (dataset.classes){_too_low(folder)}")
        say_once(
            f"{folder}: no class folders, so labels of its {len(paths)} photographs are unknown, and accuracies too; if"
            f" it is itself the folder of a class, give dataset.root={folder.absolute().parent}"
        )
        if +left_out:
            say_once(f"{folder}: not read: {counted(left_out)}")
        return [self._record(path, -1) for path in paths]

    def _loose(self, folder: Path) -> list[Record]:  # noqa: ARG002
        """Photographs that are labelled although they lie in no class folder."""
        return []

    def _record(self, path: str, label: int) -> Record:
        return Record(Path(path).relative_to(self.root).as_posix(), label, path)

    def _no_class(self, split: str, folder: Path, left_out: Counter[str]) -> str:
        """What is wrong with a class folder that is empty or of no class."""
        if folder.name in self._labels or not self._given:
            unread = f" ({counted(left_out)})" if +left_out else ""
            return f"{folder}: class folder without images{unread}; add some or remove the folder"
        if folder.name.lower() in OF_MASKS:
            return _masks_hint(folder)
        beside = [name for name in subfolders(folder.parent) if name.lower() not in OF_MASKS]
        levels = [name for name in beside if set(subfolders(folder.parent / name)) & set(self.classes)]
        hint = f"; class folders lie below, so give {_level_below(split, folder.parent, levels, self.root)}" * bool(
            levels
        )
        return f"{folder}: not one of the {len(self.classes)} classes (dataset.classes){hint}"

    def mask_file(self, record: Record) -> Path:
        """Where the mask of an image lies; InputError where it has none. Opens no file."""
        return self._mask_folder.file(Path(record.path))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        path, values, image = self._mask_values(record)
        counted = values != self.mask_void
        inverted = bool(self.mask_invert)
        rule = f"every pixel is above dataset.mask_threshold={self.mask_threshold}, with dataset.mask_invert=true"
        rule = rule if inverted else f"no pixel above dataset.mask_threshold={self.mask_threshold}"
        mask = checked_mask(((values > self.mask_threshold) != inverted) & counted, image, path, record.path, rule)
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

    def _photographs(self, folder: Path, files: list[str]) -> list[str]:
        """The image files below a folder but for those that are masks of others beside them, which a line counts."""
        names: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for file in files:
            names[os.path.dirname(file)][os.path.basename(file)] = file
        by_suffix = self.has_masks and self._mask_folder.is_beside
        masks = {below: masks_among(beside, by_suffix) for below, beside in names.items()}
        if found := [pair for each in masks.values() for pair in each.items()]:
            how = "" if self.has_masks else f"; dataset.masks={self.root} uses them"
            say_once(
                f"{folder}: {len(found)} of {len(files)} images, as {found[0][0]} beside {found[0][1]}, are taken for"
                f" masks, not for photographs, here and in other class folders{how}",
                f"masks of {self.root}",
            )
        kept = [file for file in files if os.path.basename(file) not in masks[os.path.dirname(file)]]
        if like := [file for file in kept if is_called_mask(file)]:
            say_once(
                f"{folder}: {len(like)} images are called as masks are, and taken for photographs, as {like[0]}: if it"
                " is a mask, call it as its image, with _mask before the suffix, or keep it in a folder of its own",
                f"called masks of {self.root}",
            )
        return kept


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


def _folder_of(root: Path, folder: str) -> Path:
    """A split's folder below ``root``, which may also be given as it lies from here; InputError for one beside it."""
    if not os.path.isabs(folder) and (root / folder).is_dir():
        return root / folder
    below = Path(os.path.relpath(folder, root))
    if os.path.isabs(folder) and ".." in below.parts:
        raise InputError(f"dataset.splits: {folder} is not below dataset.root={root}: give the root above all splits")
    return root / (folder if ".." in below.parts else below)


def _ordered(names: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Sorted folders in the order of the labels, with a line where people would count otherwise."""
    parts = {name: re.split(r"(\d+)", name) for name in names}  # words at even places, numbers at odd ones
    natural = sorted(names, key=lambda name: [int(p) if i % 2 else p for i, p in enumerate(parts[name])])
    if natural == list(names):
        return tuple(names)
    numbers = all(name.isdecimal() for name in names)
    order = tuple(natural if numbers else names)
    how = "as numbers" if numbers else "as words"
    say_once(f"{folder}: classes are sorted {how}, {', '.join(order[:4])}, ...; dataset.classes gives another order")
    return order


def _check_level(split: str, folder: Path, root: Path, found: Mapping[str, Sequence[str]]) -> None:
    """InputError where what should be class folders are folders of class folders."""
    below = {name: _below(folder / name, paths) for name, paths in found.items() if paths}
    nested = {name: parts for name, parts in below.items() if "" not in parts}
    high = [name for name, parts in nested.items() if parts & set(found)]
    if not high and len(nested) == len(below):
        high = [name for name in nested if name.lower() in _LEVELS or len(nested) == 1]
    if masks := [name for name in high if name.lower() in OF_MASKS]:
        raise InputError(_masks_hint(folder / masks[0]))
    if high:
        raise InputError(
            f"{folder}: {', '.join(high)} hold class folders, not photographs: one level too high; give"
            f" {_level_below(split, folder, high, root)}, or dataset.classes if these are the classes"
        )


def _masks_hint(folder: Path) -> str:
    return f"{folder}: a folder of masks, by its name, and no class: give dataset.masks={folder}, or rename it"


def _level_below(split: str, folder: Path, names: Sequence[str], root: Path) -> str:
    """The key that says which of the folders ``names`` in ``folder`` holds the class folders."""
    splits = [name for each in _SPLITS for name in names if name.lower() == each]
    if splits:
        return f"dataset.splits.{split}={(folder / splits[0]).relative_to(root)}"
    return f"dataset.root={folder / names[0]}" if names else ""


def _too_low(folder: Path) -> str:
    """A hint where ``folder`` is what should be a class folder."""
    count = sum(is_photograph(entry) for entry in entries(folder))
    return (
        f", but {count} photographs: one level too low? Give dataset.root={folder.absolute().parent}" if count else ""
    )


def _say_nested(folder: Path, found: Mapping[str, Sequence[str]]) -> None:
    """A line about photographs in folders below class folders."""
    below = {name: sorted(_below(folder / name, paths) - {""}) for name, paths in found.items()}
    if some := [f"{name}/{part}" for name, parts in below.items() for part in parts]:
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        say_once(f"{folder}: photographs in subfolders are of the class above: {', '.join(some[:3])}{more}")


def _below(folder: Path, paths: Sequence[str]) -> set[str]:
    """The folders directly in ``folder`` that ``paths`` lie in, "" for itself."""
    start = len(str(folder)) + 1
    return {path[start:].rpartition(os.sep)[0].partition(os.sep)[0] for path in paths}
