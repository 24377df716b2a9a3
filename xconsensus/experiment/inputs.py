"""What an experiment is given: the images of each split, and what they hold, looked at once for all its stages."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from xconsensus.datasets import Dataset, Record
from xconsensus.datasets.first_classes import whole
from xconsensus.datasets.images import ImageFiles, reads_otherwise
from xconsensus.errors import InputError
from xconsensus.progress import say_once
from xconsensus.store.contents import Contents, look
from xconsensus.store.files import read_csv, read_settings
from xconsensus.store.folders import Store
from xconsensus.store.tensors import read_whole


@dataclass
class Inputs:
    """The images of a data set.

    ``again`` reads files, too, that look as they did; without ``keep`` nothing is written.
    """

    dataset: Dataset
    store: Store
    progress: str = "off"
    again: bool = False
    keep: bool = True
    by_ensemble: dict[str, int] = field(default_factory=dict, repr=False)  # kept by `artefacts.ensemble_classes`
    _records: dict[str, list[Record]] = field(default_factory=dict, repr=False)
    _contents: dict[tuple[str, bool], Contents] = field(default_factory=dict, repr=False)

    def records(self, split: str) -> list[Record]:
        """The images of a split, sorted."""
        if split not in self._records:
            self._records[split] = self.dataset.records(split)
        return list(self._records[split])

    def labels(self, split: str) -> dict[str, int]:
        """Image id -> label of the images of a split."""
        return {record.image_id: record.label for record in self.records(split)}

    def contents(self, split: str, labels: bool = False) -> Contents:
        """What the images of a split hold; with ``labels``, these count as part of it."""
        if (split, labels) not in self._contents:
            self._look(split)
        return self._contents[split, labels]

    def _look(self, split: str) -> None:
        records = self.records(split)
        seen = look(
            self.store.contents(split),
            {record.image_id: record.path for record in records},
            partial(self._labels_then, split),
            self._was_read_otherwise,
            again=self.again,
            keep=self.keep,
            progress=self.progress,
        )
        plain = Contents(
            {each: image.digest for each, image in seen.items()},
            {each: image.digest_then for each, image in seen.items()},
        )
        labels_then = {each: image.label_then for each, image in seen.items()}
        self._contents[split, False] = plain
        self._contents[split, True] = plain.with_labels(self.labels(split), labels_then)
        self._say_twins(split, plain)

    def _say_twins(self, split: str, contents: Contents) -> None:
        """A line about images that stand in a split twice, as links or copies, maybe under two labels."""
        if not (twins := contents.twins()):
            return
        labels = self.labels(split)
        torn = [(one, other) for one, other in twins if labels[one] != labels[other]]
        under = f", {len(torn)} under another label, as {' and '.join(torn[0])}" if torn else ""
        say_once(
            f"warning: {len(twins)} of {len(labels)} images of split {split} hold the same bytes as others, as"
            f" {' and '.join(twins[0])}{under}: each counts, so remove those that should not"
        )

    def _was_read_otherwise(self, path: str) -> bool:
        """Whether the version before read other pixels from an image file; own code's reading is its own."""
        if not isinstance(dataset := whole(self.dataset), ImageFiles):
            return False
        try:
            return reads_otherwise(Path(path), dataset.white)
        except InputError:  # nobody could read it
            return False

    def _labels_then(self, split: str) -> dict[str, int]:
        """Image id -> the label that artefacts of before were made with: as the tables of explained images hold it,
        else predictions, else the present one as the version before numbered it.
        """
        labels = {record.image_id: self._label_then(record.label) for record in self.records(split)}
        files = [*self.store.predictions(split, "_").parent.glob("*.safetensors")]
        for path in [*sorted(files), *sorted(self.store.images("_").parent.glob("*.csv"))]:
            with suppress(InputError, ValueError, OverflowError):  # what is damaged tells nothing
                held = _labels_in(path, split)
                labels |= {image_id: label for image_id, label in held.items() if image_id in labels}
        return labels

    def _label_then(self, label: int) -> int:
        """The label that the version before gave an image: it had class folders called by numbers in another order."""
        before = getattr(self.dataset, "classes_before", None)
        return before.index(self.dataset.classes[label]) if before and label >= 0 else label


def _labels_in(path: Path, split: str) -> dict[str, int]:
    """Image id -> label by predictions, or by a table of explained images, if it is of ``split``."""
    if path.suffix == ".safetensors":
        tensors, header = read_whole(path, "labels")
        return dict(zip(header.get("ids", []), tensors["labels"].tolist(), strict=False))
    if read_settings(path).get("split") != split:
        return {}
    table = read_csv(path, ["image_id", "label"])
    return {str(image_id): int(label) for image_id, label in zip(table["image_id"], table["label"], strict=True)}
