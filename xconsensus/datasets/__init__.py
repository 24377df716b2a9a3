"""Data sets: each module holds one loader, or one kind; ``load`` finds it by name."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from xconsensus import own_code
from xconsensus.datasets.records import Dataset, Record, SeveralObjects
from xconsensus.errors import InputError, nearest

__all__ = ["Dataset", "Record", "SeveralObjects", "load"]


def load(loader: str, settings: Mapping[str, Any]) -> Dataset:
    """The data set of ``loader`` (shapes, imagefolder, cub200, ..., or own code), given ``settings`` as keywords.

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
    if own_code.is_own(loader):
        return _own(loader, settings)
    if loader not in loaders:
        raise InputError(f"dataset.loader={loader}: unknown{nearest(loader, loaders)}")
    dataset: Dataset = loaders[loader](**settings)
    return dataset


def _own(loader: str, settings: Mapping[str, Any]) -> Dataset:
    made = own_code.load(loader, "dataset.loader")
    try:
        dataset: Dataset = made(**settings)
    except TypeError as error:
        raise InputError(
            f"dataset.loader={loader}: {error}; the keys of the dataset group are its arguments"
        ) from error
    for part in ("classes", "has_masks", "records", "image", "mask"):
        if not hasattr(dataset, part):
            raise InputError(f"dataset.loader={loader}: has no {part}; see docs/extending.md")
    return dataset
