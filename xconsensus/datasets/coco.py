"""COCO: photographs of several objects, each with its mask (Lin et al. 2014); the paper's figure 9."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xconsensus.datasets.coco_masks import rasterise
from xconsensus.datasets.imagefolder import imagenet_wnids
from xconsensus.datasets.images import ImageFiles, checked_mask
from xconsensus.datasets.official import need, part_of, present
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

_FETCH = (
    "get {folder}.zip and the archive with {file} (annotations_trainval2017.zip for train2017 and val2017) from"
    " cocodataset.org and unpack both into dataset.root"
)


@dataclass(frozen=True)
class _Annotation:
    category: int  # index into the category names
    area: float
    segmentation: Any


@dataclass(frozen=True)
class _Image:
    height: int
    width: int
    annotations: list[_Annotation] = field(default_factory=list)

    def category(self) -> int:
        """The category with the largest area in total, the first of equals."""
        areas: defaultdict[int, float] = defaultdict(float)
        for annotation in self.annotations:
            areas[annotation.category] += annotation.area
        return max(sorted(areas), key=areas.__getitem__)


class COCO(ImageFiles):
    """The official layout below ``root``: a folder of photographs each split, annotations/instances_FOLDER.json.

    ``splits`` maps each split to its folder. The records are the photographs that have instances (a crowd is one);
    an image's id is its ``file_name``, with folders too. Categories are those of the file, sorted by their numbers.

    With ``labels`` coco an image's label is the category with the largest area in total. With none the classes are
    ImageNet's 1000, for members that were not adapted to COCO, and every label is -1, unknown.

    Raises InputError for missing files, other labels, and files that are not COCO's.
    """

    has_masks = True
    image_keys = ("labels",)  # it shapes labels, but has stood in artefacts from the start
    mask_keys = ()

    def __init__(self, *, root: str, splits: Mapping[str, str], labels: str = "coco") -> None:
        self.root = Path(root)
        self.splits = dict(splits)
        self.labels = labels
        if labels not in ("coco", "none"):
            raise InputError(f"dataset.labels={labels} is neither coco nor none")
        self._read: dict[str, tuple[tuple[str, ...], dict[str, _Image]]] = {}
        for folder in self.splits.values():
            file = self._file(folder)
            need((self.root / folder, file), _FETCH.format(folder=folder, file=file.name))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The names of COCO's own categories, in the order of their numbers."""
        return self._content(next(iter(self.splits.values())))[0]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.categories if self.labels == "coco" else tuple(imagenet_wnids())

    def records(self, split: str) -> list[Record]:
        folder = part_of(self.splits, split)
        categories, images = self._content(folder)
        if categories != self.categories:
            raise InputError(f"{self._file(folder)}: has other categories than the split {next(iter(self.splits))}")
        known = self.labels == "coco"
        named = [
            Record(name, image.category() if known else -1, self._path(folder, name))
            for name, image in images.items()
            if image.annotations
        ]
        return present(named, self._file(folder))

    def _path(self, folder: str, name: str) -> str:
        """Where an image lies: below the split's folder or, named with folders, below ``root``, or without them."""
        places = [self.root / folder / name]
        if "/" in name:
            places += [self.root / name, self.root / folder / name.rpartition("/")[2]]
        return str(next((path for path in places if len(places) > 1 and path.is_file()), places[0]))

    def instances(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        """Category name and mask of every instance of at least one pixel, the largest first."""
        image, file = self.image(record), self._file_of(record)
        found = [
            (self.categories[category], checked_mask(mask, image, file, record.path, ""))
            for category, mask in self._masks(record)
            if mask.any()
        ]
        return sorted(found, key=lambda named: -int(named[1].sum()))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        """Every instance of the category with the largest area in total, also where the label is unknown."""
        main = self._image(record).category()
        union = np.logical_or.reduce([mask for category, mask in self._masks(record) if category == main])
        rule = f"no pixel of {self.categories[main]}"
        return checked_mask(union, self.image(record), self._file_of(record), record.path, rule)

    def _masks(self, record: Record) -> list[tuple[int, NDArray[np.bool_]]]:
        """Category and mask of every instance."""
        image, found = self._image(record), []
        for annotation in image.annotations:
            try:
                found.append((annotation.category, rasterise(annotation.segmentation, image.height, image.width)))
            except (ValueError, TypeError, OverflowError) as error:
                raise InputError(f"{self._file_of(record)}: image {record.image_id}: {error}") from error
        return found

    def _image(self, record: Record) -> _Image:
        file = self._file_of(record)
        need((file,), "it holds the instances of the image, but is gone")
        images = self._content(self._folder_of(record))[1]
        if record.image_id not in images:
            raise InputError(f"{file}: does not name image {record.path}")
        return images[record.image_id]

    def _content(self, folder: str) -> tuple[tuple[str, ...], dict[str, _Image]]:
        if folder not in self._read:
            self._read[folder] = _parse(self._file(folder))
        return self._read[folder]

    def _file(self, folder: str) -> Path:
        return self.root / f"annotations/instances_{folder}.json"

    def _file_of(self, record: Record) -> Path:
        return self._file(self._folder_of(record))

    def _folder_of(self, record: Record) -> str:
        inside = [each for each in self.splits.values() if Path(record.path).is_relative_to(self.root / each)]
        if not inside:
            inside = [each for each in self.splits.values() if record.image_id in self._content(each)[1]]
        return inside[0] if inside else Path(record.path).parent.name


def _parse(path: Path) -> tuple[tuple[str, ...], dict[str, _Image]]:
    """Category names in the order of their numbers, and the images by file name."""
    try:
        content = json.loads(path.read_bytes())
        names = dict(sorted((int(category["id"]), str(category["name"])) for category in content["categories"]))
        index = {number: position for position, number in enumerate(names)}
        images = {entry["id"]: _sized(int(entry["height"]), int(entry["width"])) for entry in content["images"]}
        names_of_files = [_in_folders(str(entry["file_name"])) for entry in content["images"]]
        if twice := [name for name, count in Counter(names_of_files).items() if count > 1]:
            raise ValueError(f"it names image {twice[0]} twice")
        for entry in content["annotations"]:
            image, segmentation = images[entry["image_id"]], entry["segmentation"]
            if "area" not in entry:  # tools leave it out
                entry["area"] = rasterise(segmentation, image.height, image.width).sum()
            image.annotations.append(_Annotation(index[entry["category_id"]], float(entry["area"]), segmentation))
        ids = [entry["id"] for entry in content["images"]]
        return tuple(names.values()), {name: images[each] for name, each in zip(names_of_files, ids, strict=True)}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"{path}: not an instances file of COCO ({reason})") from error


def _in_folders(name: str) -> str:
    """The file name of an image, below a folder; ValueError for one that leaves it."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"file_name {name} leaves the folder")
    return "/".join(parts)


def _sized(height: int, width: int) -> _Image:
    """An image still without annotations; ValueError for a size that masks must not be made in."""
    if not (height > 0 and width > 0 and height * width <= (Image.MAX_IMAGE_PIXELS or height * width)):
        raise ValueError(f"an image of {width}x{height} pixels")
    return _Image(height, width)
