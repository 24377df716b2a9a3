"""Data sets: each module holds one loader, or one kind; ``load`` finds it by name.

A loader says itself, as ``image_keys`` and ``mask_keys``, which of its keys shape what its images and masks show.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from xconsensus import own_code
from xconsensus.datasets.files import check_name
from xconsensus.datasets.first_classes import FirstClasses
from xconsensus.datasets.images import ImageFiles
from xconsensus.datasets.own import OwnDataset, OwnSeveralObjects
from xconsensus.datasets.records import Dataset, Record, SeveralObjects
from xconsensus.errors import InputError, nearest

__all__ = ["Dataset", "Record", "SeveralObjects", "image_settings", "load", "mask_kind", "mask_settings"]

# keys of the dataset group that are no arguments of a loader, but for those that are where it names them
_OF_GROUP = ("name", "loader", "size", "resize", "white", "explain_split", "first_classes")
# keys that in own loaders, which need not say which of theirs shape an image or a mask, are taken to shape no image
_OF_FILES = ("root", "download", "devkit", "classes", "splits")
_OF_MASKS = ("masks", "mask_threshold", "mask_tolerance", "mask_values", "mask_void", "mask_invert")


def image_settings(dataset: Dataset, group: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config's dataset ``group`` shapes an image's pixels: what artefacts of images are compared by."""
    every = [key for key in group if key not in (*_OF_GROUP, *_OF_FILES, *_OF_MASKS)]
    white = ["white"] * (group.get("white") is not None)  # that artefacts without it stay what they are
    keys = ("size", "resize", *white, *getattr(dataset, "image_keys", every))
    return {**{key: group[key] for key in keys if key in group}, "loader": own_code.settled(group["loader"])}


def mask_settings(dataset: Dataset, group: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config's dataset ``group`` shapes a mask, but for where masks lie: their contents say more.

    Keys that are null stand for nothing, as keys do that were added since. ``kind`` is that of masks which are boxes.
    """
    keys = (key for key in getattr(dataset, "mask_keys", _OF_MASKS) if key != "masks")
    kind = {"kind": found} if (found := mask_kind(dataset)) else {}
    return {**{key: group[key] for key in keys if group.get(key) is not None}, **kind}


def mask_kind(dataset: Dataset) -> str:
    """``boxes`` of a data set whose masks are bounding boxes, else empty: masks are the objects' pixels."""
    return str(getattr(dataset, "mask_kind", ""))


def load(group: Mapping[str, Any]) -> Dataset:
    """The data set of the config's dataset ``group``: that of its loader (shapes, imagefolder, cub200, ..., or own
    code), given the other keys as keywords; ``resize`` too, if that is one of the loader's arguments. Of its classes,
    the ``first_classes`` alone where the group says so.

    Raises InputError for an unknown loader, own code that is no `Dataset` or refuses the settings, and folders that
    do not exist.
    """
    dataset, first = _loaded(group), group.get("first_classes")
    return dataset if first is None else FirstClasses(dataset, first)


def _loaded(group: Mapping[str, Any]) -> Dataset:
    from xconsensus.datasets.coco import COCO
    from xconsensus.datasets.cub200 import CUB200
    from xconsensus.datasets.fine_grained import CARS196, FOOD101, FineGrained, Flowers102
    from xconsensus.datasets.flowers17 import Flowers17
    from xconsensus.datasets.imagefolder import ImageFolder
    from xconsensus.datasets.imagenet import ImageNet
    from xconsensus.datasets.oxford_pets import OxfordPets
    from xconsensus.datasets.shapes import Shapes

    loaders: dict[str, Any] = {
        "cars196": partial(FineGrained, CARS196),
        "coco": COCO,
        "cub200": CUB200,
        "flowers102": Flowers102,
        "flowers17": Flowers17,
        "food101": partial(FineGrained, FOOD101),
        "imagefolder": ImageFolder,
        "imagenet": ImageNet,
        "oxford_pets": OxfordPets,
        "shapes": Shapes,
    }
    loader, white = group["loader"], group.get("white")
    if white is not None and (isinstance(white, bool) or not isinstance(white, int | float) or not white > 0):
        raise InputError(f"dataset.white={white} is not a positive number: the value that is white in image files")
    for key in ("root", "masks"):
        check_name(str(group.get(key)))
    if own_code.is_own(loader):
        return _own(loader, group)
    if loader not in loaders:
        raise InputError(f"dataset.loader={loader}: unknown{nearest(loader, loaders)}")
    dataset: Dataset = loaders[loader](**_arguments(loaders[loader], group))
    if isinstance(dataset, ImageFiles):
        dataset.white = white
    elif white is not None:
        raise InputError(f"dataset.white={white}: {loader} reads no image files; leave it out")
    return dataset


def _arguments(loader: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the group that are the loader's own."""
    settings = {key: value for key, value in group.items() if key not in _OF_GROUP}
    with suppress(TypeError, ValueError):  # no signature to look at
        named = inspect.signature(loader).parameters
        settings.update({key: group[key] for key in ("resize", "white") if key in named and key in group})
    return settings


def _own(loader: str, group: Mapping[str, Any]) -> Dataset:
    made = own_code.load(loader, "dataset.loader")
    arguments = _arguments(made, group)
    if group.get("white") is not None and "white" not in arguments:
        raise InputError(f"dataset.white={group['white']}: {loader} has no argument white; leave it out")
    try:
        dataset = made(**arguments)
    except TypeError as error:
        raise InputError(
            f"dataset.loader={loader}: {error}; the keys of the dataset group are its arguments"
        ) from error
    for part in ("classes", "has_masks", "records", "image", "mask"):
        if not hasattr(dataset, part):
            raise InputError(f"dataset.loader={loader}: has no {part}; see docs/extending.md")
    return (OwnSeveralObjects if hasattr(dataset, "instances") else OwnDataset)(dataset, loader)
