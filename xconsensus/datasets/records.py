"""What every data set offers: records to list, images and masks to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xconsensus.errors import InputError


@dataclass(frozen=True)
class Record:
    """One image of a data set, before it is read.

    ``image_id`` is unique in the data set and the seed of every random draw about the image; ``label`` indexes the
    data set's classes, -1 where it is unknown; ``path`` is where the image came from, empty when it is drawn rather
    than read.
    """

    image_id: str
    label: int
    path: str = ""


def check_labels(records: Sequence[Record], classes: int, known: bool = False) -> None:
    """InputError naming an image whose label is that of no class, or with ``known`` unknown."""
    for record in records:
        if record.label >= classes or (known and record.label < 0):
            raise InputError(
                f"image {record.path or record.image_id}: label {record.label} is none of the {classes} classes, which"
                f" are 0 to {classes - 1}" + ("; explainer.target=predicted needs none" if known else "")
            )


class Dataset(Protocol):
    """A labelled set of single-object images, some with the object's pixel mask.

    It may tell where an image's mask lies (``mask_file(record)``, InputError where it is missing), and which pixels
    count neither as object nor as background (``void(record)``, bool of the image's (H, W), or None). With
    ``some_without_mask``, images that lack a mask are as they should be, and are not explained.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Class names in the order of the labels."""

    @property
    def has_masks(self) -> bool:
        """Whether ``mask`` gives masks."""

    def records(self, split: str) -> list[Record]:
        """The images of a split, sorted; InputError for an unknown split or one without images."""

    def image(self, record: Record) -> NDArray[np.uint8]:
        """RGB of shape (H, W, 3), upright; InputError naming the file that cannot be read."""

    def mask(self, record: Record) -> NDArray[np.bool_]:
        """True on the object, of the image's (H, W); InputError where it is missing, empty or of another size."""


class SeveralObjects(Dataset, Protocol):
    """A data set whose images hold several objects, each with a mask of its own."""

    def instances(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        """Category name and mask, of the image's (H, W), of every object, the largest mask first.

        Raises InputError for masks that cannot be read or are of another size.
        """


class Wrapped:
    """A data set that is another one, ``dataset``, in all that it does not say itself."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.dataset, name)
