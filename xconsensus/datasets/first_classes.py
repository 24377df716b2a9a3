"""The first classes of any data set, as if it had no others."""

from collections.abc import Sequence

from xconsensus.datasets.records import Dataset, Record, Wrapped
from xconsensus.errors import InputError


class FirstClasses(Wrapped):
    """``dataset`` with its first ``count`` classes alone, in the order of the labels, which stay what they are.

    Raises InputError where it has fewer, and for images whose label is unknown, when they are listed.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        super().__init__(dataset)
        self._count = count
        if count > len(dataset.classes):
            raise InputError(f"dataset.first_classes={count}: the data set has {len(dataset.classes)} classes")

    @property
    def classes(self) -> Sequence[str]:
        first: Sequence[str] = self.dataset.classes[: self._count]
        return first

    def records(self, split: str) -> list[Record]:
        every = self.dataset.records(split)
        if unknown := next((record for record in every if record.label < 0), None):
            raise InputError(
                f"dataset.first_classes={self._count}: the label of image {unknown.path or unknown.image_id} is"
                " unknown; leave the key out"
            )
        kept = [record for record in every if record.label < self._count]
        if not kept:
            raise InputError(f"dataset.first_classes={self._count}: split {split} has no image of these classes")
        return kept


def whole(dataset: Dataset) -> Dataset:
    """The data set with all its classes, as its loader made it."""
    inner: Dataset = dataset.dataset if isinstance(dataset, FirstClasses) else dataset
    return inner
