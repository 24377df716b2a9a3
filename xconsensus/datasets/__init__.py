"""Data sets: each module holds one loader, or one kind; ``load`` finds it by name.

A loader says itself, as ``image_keys`` and ``mask_keys``, which of its keys shape what its images and masks show.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from xconsensus import own_code
from xconsensus.datasets.records import Dataset, Record, SeveralObjects
from xconsensus.errors import InputError, nearest

__all__ = ["Dataset", "Record", "SeveralObjects", "image_settings", "load", "mask_settings"]

# keys of the dataset group that are no arguments of a loader, but for ``resize`` where it is one
_OF_GROUP = ("name", "loader", "size", "resize", "explain_split")
# keys that in own loaders, which need not say which of theirs shape an image or a mask, are taken to shape no image
_OF_FILES = ("root", "download", "devkit", "classes", "splits")
_OF_MASKS = ("masks", "mask_threshold", "mask_tolerance", "mask_values", "mask_void")


def image_settings(dataset: Dataset, group: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config's dataset ``group`` shapes an image's pixels: what artefacts of images are compared by."""
    every = [key for key in group if key not in (*_OF_GROUP, *_OF_FILES, *_OF_MASKS)]
    keys = ("size", "resize", *getattr(dataset, "image_keys", every))
    return {**{key: group[key] for key in keys if key in group}, "loader": own_code.settled(group["loader"])}


def mask_settings(dataset: Dataset, group: Mapping[str, Any]) -> dict[str, Any]:
    """What of the config's dataset ``group`` shapes a mask, but for where masks lie: their contents say more.

    Keys that are null stand for nothing, as keys do that were added since.
    """
    keys = (key for key in getattr(dataset, "mask_keys", _OF_MASKS) if key != "masks")
    return {key: group[key] for key in keys if group.get(key) is not None}


def load(group: Mapping[str, Any]) -> Dataset:
    """The data set of the config's dataset ``group``: that of its loader (shapes, imagefolder, cub200, ..., or own
    code), given the other keys as keywords; ``resize`` too, if that is one of the loader's arguments.

    Raises InputError for an unknown loader, own code that is no `Dataset` or refuses the settings, and folders that
    do not exist.
    """
    from xconsensus.datasets.coco import COCO
    from xconsensus.datasets.cub200 import CUB200
    from xconsensus.datasets.fine_grained import CARS196, FOOD101, FineGrained, Flowers102
    from xconsensus.datasets.imagefolder import ImageFolder
    from xconsensus.datasets.imagenet import ImageNet
    from xconsensus.datasets.oxford_pets import OxfordPets
    from xconsensus.datasets.shapes import Shapes

    loaders: dict[str, Any] = {
        "cars196": partial(FineGrained, CARS196),
        "coco": COCO,
        "cub200": CUB200,
        "flowers102": Flowers102,
        "food101": partial(FineGrained, FOOD101),
        "imagefolder": ImageFolder,
        "imagenet": ImageNet,
        "oxford_pets": OxfordPets,
        "shapes": Shapes,
    }
    loader = group["loader"]
    if own_code.is_own(loader):
        return _own(loader, group)
    if loader not in loaders:
        raise InputError(f"dataset.loader={loader}: unknown{nearest(loader, loaders)}")
    dataset: Dataset = loaders[loader](**_arguments(loaders[loader], group))
    return dataset


def _arguments(loader: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the group that are the loader's own."""
    settings = {key: value for key, value in group.items() if key not in _OF_GROUP}
    with suppress(TypeError, ValueError):  # no signature to look at
        if "resize" in inspect.signature(loader).parameters and "resize" in group:
            settings["resize"] = group["resize"]
    return settings


def _own(loader: str, group: Mapping[str, Any]) -> Dataset:
    made = own_code.load(loader, "dataset.loader")
    try:
        dataset: Dataset = made(**_arguments(made, group))
    except TypeError as error:
        raise InputError(
            f"dataset.loader={loader}: {error}; the keys of the dataset group are its arguments"
        ) from error
    for part in ("classes", "has_masks", "records", "image", "mask"):
        if not hasattr(dataset, part):
            raise InputError(f"dataset.loader={loader}: has no {part}; see docs/extending.md")
    return dataset
