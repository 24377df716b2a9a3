"""Data sets: each module holds one loader; ``load`` finds it by name."""

from collections.abc import Mapping
from typing import Any

from xconsensus.datasets.records import Dataset, Record
from xconsensus.errors import InputError, nearest

__all__ = ["Dataset", "Record", "load"]


def load(loader: str, settings: Mapping[str, Any]) -> Dataset:
    """The data set of ``loader`` (shapes, imagefolder), built with ``settings`` as keyword arguments.

    Raises InputError for an unknown loader and for folders that do not exist.
    """
    from xconsensus.datasets.imagefolder import ImageFolder
    from xconsensus.datasets.shapes import Shapes

    loaders: dict[str, Any] = {"imagefolder": ImageFolder, "shapes": Shapes}
    if loader not in loaders:
        raise InputError(f"dataset.loader={loader}: unknown{nearest(loader, loaders)}")
    dataset: Dataset = loaders[loader](**settings)
    return dataset
