"""Stanford Cars, Oxford Flowers and Food-101, the paper's fine-grained data sets beside CUB, by torchvision's classes.

Torchvision knows the official layouts, downloads and checksums. Krause et al. 2013, Nilsback and Zisserman 2008,
Bossard et al. 2014.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.images import ImageFiles, checked_mask, read_rgb
from xconsensus.datasets.official import folder_of_masks, mask_there, need, part_of, present
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError


@dataclass(frozen=True)
class Source:
    """A data set of torchvision: its class, the folder this class looks for, and how the files get there."""

    reader: str
    folder: str
    fetch: str


CARS196 = Source(
    "StanfordCars",
    "stanford_cars",
    "its site is gone: get cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat from a copy"
    " (github.com/pytorch/vision/issues/7545 names some) and put cars_train/, cars_test/, devkit/ and the .mat there",
)
FLOWERS102 = Source(
    "Flowers102",
    "flowers-102",
    "set dataset.download=true, or get 102flowers.tgz, imagelabels.mat and setid.mat from"
    " www.robots.ox.ac.uk/~vgg/data/flowers/102 and unpack the first there as jpg/ beside the two .mat files",
)
FOOD101 = Source(
    "Food101",
    "food-101",
    "set dataset.download=true, or get food-101.tar.gz from data.vision.ee.ethz.ch/cvl/datasets_extra/food-101 and"
    " unpack it so that images/ and meta/ lie there",
)


class FineGrained(ImageFiles):
    """What torchvision's class reads from ``root``, the folder that it names or the one that holds this folder.

    ``splits`` maps each split to one or several of torchvision's. An image's id is its path in the folder.

    Raises InputError, with what to fetch, where torchvision cannot read or download the files.
    """

    image_keys: tuple[str, ...] = ()
    mask_keys: tuple[str, ...] = ()

    def __init__(
        self, source: Source, *, root: str, splits: Mapping[str, str | Sequence[str]], download: bool = False
    ) -> None:
        self.source = source
        given = Path(root).expanduser()
        self.root = given if given.name == source.folder else given / source.folder
        self.splits = {split: [parts] if isinstance(parts, str) else list(parts) for split, parts in splits.items()}
        self._download = download
        if not download:
            need((self.root,), source.fetch)
        parts = next(iter(self.splits.values()))
        self.classes: tuple[str, ...] = tuple(self._read(parts[0]).classes)

    @property
    def has_masks(self) -> bool:
        return False

    def records(self, split: str) -> list[Record]:
        named = []
        for part in part_of(self.splits, split):
            read = self._read(part)
            named += [(Path(path), int(label)) for path, label in (read[index] for index in range(len(read)))]
        records = [Record(path.relative_to(self.root).as_posix(), label, str(path)) for path, label in named]
        return present(records, self.root)

    def mask(self, record: Record) -> NDArray[np.bool_]:
        raise InputError(f"{record.path}: {self.source.reader} has no masks")

    def _read(self, part: str) -> Any:
        """Torchvision's data set of (path, label): its loader of pixels is replaced by ``str``, which opens nothing."""
        from xconsensus.compat import torchvision

        reader = getattr(torchvision.datasets, self.source.reader)
        try:
            return reader(str(self.root.parent), split=part, download=self._download, loader=str)
        except Exception as error:  # readers of damaged .mat and .json files raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"{self.root}: torchvision cannot read split {part} ({reason}); {self.source.fetch}"
            ) from error


class Flowers102(FineGrained):
    """Oxford Flowers 102 with its segmentations: photographs with everything but the flower painted blue.

    ``masks`` is their folder inside or beside the data set's, None to do without. They are JPEGs, so the blue is
    blurred: background is each pixel whose red, green and blue all lie within ``mask_tolerance`` of (0, 0, 254).
    """

    mask_keys = ("mask_tolerance",)

    def __init__(
        self,
        *,
        root: str,
        splits: Mapping[str, str | Sequence[str]],
        masks: str | None = "segmim",
        mask_tolerance: int = 48,
        download: bool = False,
    ) -> None:
        super().__init__(FLOWERS102, root=root, splits=splits, download=download)
        archive = (
            "the segmentations are a separate archive, which torchvision does not download: get 102segmentations.tgz"
            " from www.robots.ox.ac.uk/~vgg/data/flowers/102 and unpack it there"
        )
        self.masks = folder_of_masks(self.root, masks, archive) if masks else None
        self.mask_tolerance = mask_tolerance

    @property
    def has_masks(self) -> bool:
        return self.masks is not None

    def mask(self, record: Record) -> NDArray[np.bool_]:
        path = self.mask_file(record)
        distance = np.abs(read_rgb(path).astype(int) - (0, 0, 254)).max(2)
        rule = f"no pixel farther than dataset.mask_tolerance={self.mask_tolerance} from blue"
        return checked_mask(distance > self.mask_tolerance, self.image(record), path, record.path, rule)

    def mask_file(self, record: Record) -> Path:
        """Where the mask of an image lies; InputError where it does not."""
        assert self.masks is not None
        return mask_there(self.masks / Path(record.path).name.replace("image_", "segmim_"), record.path)
