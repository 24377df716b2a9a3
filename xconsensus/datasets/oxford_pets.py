"""Oxford-IIIT Pet: 37 breeds of cats and dogs with trimaps (Parkhi et al. 2012), or a part of its breeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xconsensus.datasets.images import ImageFiles, as_its_image, checked_mask, read_mask
from xconsensus.datasets.official import mask_there, need, part_of, present, table
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

_FOLDER = "oxford-iiit-pet"
_FETCH = (
    "get images.tar.gz and annotations.tar.gz from www.robots.ox.ac.uk/~vgg/data/pets, unpack both into one folder and"
    f" give it as dataset.root; or set dataset.download=true with a dataset.root that ends in {_FOLDER}"
)


class OxfordPets(ImageFiles):
    """The official layout below ``root``: images/, annotations/trimaps/ and the lists in annotations/.

    ``splits`` maps each split to its list (trainval, test). Labels count the breeds that these lists name, in the
    order of their official numbers, so that a part of the 37 has labels without gaps; breeds are named as the files
    are. ``mask_values`` are the trimap values that are the object: 1 pet, 2 background, 3 outline.

    Torchvision's class numbers the breeds 1 to 37 as they are and only downloads here, when ``download`` says so.

    Raises InputError for missing files, malformed lines and a breed with two numbers.
    """

    has_masks = True
    image_keys = ()
    mask_keys = ("mask_values",)

    def __init__(
        self,
        *,
        root: str,
        splits: Mapping[str, str],
        mask_values: Sequence[int] = (1, 3),
        download: bool = False,
    ) -> None:
        self.root = Path(root).expanduser()
        self.mask_values = tuple(mask_values)
        if download:
            _download(self.root)
        annotations = self.root / "annotations"
        self._lists = {split: annotations / f"{name}.txt" for split, name in splits.items()}
        need((self.root, self.root / "images", annotations / "trimaps", *self._lists.values()), _FETCH)
        self._rows = {split: table(path, str, int, int, int) for split, path in self._lists.items()}
        breeds = {(number, _breed(name)) for rows in self._rows.values() for name, number, *_ in rows}
        self.classes = tuple(breed for _, breed in sorted(breeds))
        self._labels = {number: label for label, (number, _) in enumerate(sorted(breeds))}
        numbers = [number for number, _ in breeds]
        twice = [f"{n} {breed}" for n, breed in sorted(breeds) if numbers.count(n) > 1 or self.classes.count(breed) > 1]
        if twice:
            raise InputError(f"{annotations}: the lists must give each breed one number, not {', '.join(twice)}")

    def records(self, split: str) -> list[Record]:
        path = part_of(self._lists, split)
        named = [
            Record(name, self._labels[number], str(self.root / f"images/{name}.jpg"))
            for name, number, *_ in self._rows[split]
        ]
        return present(named, path)

    def mask(self, record: Record) -> NDArray[np.bool_]:
        path, image = self.mask_file(record), self.image(record)
        rule = f"no pixel of dataset.mask_values={list(self.mask_values)}"
        mask = np.isin(as_its_image(read_mask(path), path, Path(record.path), image.shape), self.mask_values)
        return checked_mask(mask, image, path, record.path, rule)

    def mask_file(self, record: Record) -> Path:
        """Where the mask of an image lies; InputError where it does not."""
        return mask_there(self.root / f"annotations/trimaps/{record.image_id}.png", record.path)


def _breed(image: str) -> str:
    return image.rpartition("_")[0]


def _download(root: Path) -> None:
    if root.name != _FOLDER:
        raise InputError(
            f"dataset.root={root}: a download goes into a folder named {_FOLDER}: end dataset.root with it"
        )
    from xconsensus.compat import torchvision

    try:
        torchvision.datasets.OxfordIIITPet(str(root.parent), download=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{root}: the download failed ({reason}); {_FETCH.partition(';')[0]}") from error
