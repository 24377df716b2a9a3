"""ImageNet-1k (ILSVRC 2012): class folders, or the validation photographs in one folder with the devkit's labels."""

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xconsensus.datasets.files import entries, is_photograph
from xconsensus.datasets.imagefolder import ImageFolder
from xconsensus.datasets.official import need, present, table
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

_FETCH = (
    "get ILSVRC2012_img_val.tar from image-net.org (it asks for an account) and unpack it into dataset.root,"
    " as it is or into class folders"
)
_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_SOLUTION = "LOC_val_solution.csv"
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})(?:_(n\d{8}))?\.\w+", re.IGNORECASE)


class ImageNet(ImageFolder):
    """Class folders named by WordNet id, or ILSVRC2012_val_*.JPEG in one folder; each split may be either, or both.

    Labels index the 1000 sorted WordNet ids, which are the classes, also where only some of them are there.
    Images in one folder may have the WordNet id in their names (as from Hugging Face); others need ``devkit``, the
    devkit's folder, None for ILSVRC2012_devkit_t12 inside or beside ``root``, or Kaggle's LOC_val_solution.csv there or
    up to four folders above. The other arguments are those of ``ImageFolder``.
    """

    def __init__(
        self,
        *,
        root: str,
        splits: Mapping[str, str],
        devkit: str | None = None,
        masks: str | None = None,
        mask_threshold: int = 0,
        mask_void: int | None = None,
        mask_invert: bool | None = None,
    ) -> None:
        need((Path(root),), _FETCH)
        of_masks: Any = {
            "masks": masks,
            "mask_threshold": mask_threshold,
            "mask_void": mask_void,
            "mask_invert": mask_invert,
        }
        super().__init__(root=root, splits=splits, classes="imagenet", **of_masks)
        self.devkit = Path(devkit) if devkit else None
        self._apart |= {os.path.realpath(folder) for folder in (self.root / _DEVKIT, devkit) if folder}

    def _is_flat(self, folder: Path) -> bool:  # noqa: ARG002
        """False: photographs in one folder have labels here (`_loose`)."""
        return False

    def _loose(self, folder: Path) -> list[Record]:
        numbered, wnids = _numbered(folder)
        if numbered and (solution := self._solution(folder)):
            known = _of_kaggle(solution)
            if absent := [name for name, number in numbered.items() if number not in known]:
                raise InputError(f"{solution}: has no line for image {folder / absent[0]}")
            wnids |= {name: known[number] for name, number in numbered.items()}
            numbered = {}
        for name, wnid in wnids.items():
            if wnid not in self._labels:
                raise InputError(f"{folder / name}: {wnid} is none of ImageNet's 1000 classes")
        records = [self._record(str(folder / name), self._labels[wnid]) for name, wnid in wnids.items()]
        records += self._labelled(folder, numbered) if numbered else []
        return present(records, folder) if records else []

    def _labelled(self, folder: Path, numbered: Mapping[str, int]) -> list[Record]:
        truth = self._devkit_folder() / _TRUTH
        labels = self._devkit_labels(truth.with_name("meta.mat"))
        ids = [number for (number,) in table(truth, int)]
        records = []
        for name, number in numbered.items():
            if not 1 <= number <= len(ids):
                raise InputError(f"{truth}: has {len(ids)} lines, none for image {folder / name}")
            if ids[number - 1] not in labels:
                raise InputError(f"{truth}:{number}: {ids[number - 1]} is no class of meta.mat beside it")
            records.append(self._record(str(folder / name), labels[ids[number - 1]]))
        return records

    def _solution(self, folder: Path) -> Path | None:
        """Kaggle's table of labels, some folders above its images, where there is no devkit."""
        if any((each / _TRUTH).is_file() for each in self._devkits()):
            return None
        folders = [self.devkit] if self.devkit else [folder, *folder.absolute().parents[:4]]
        return next((each / _SOLUTION for each in folders if (each / _SOLUTION).is_file()), None)

    def _devkits(self) -> list[Path]:
        roots = [self.devkit] if self.devkit else [self.root / _DEVKIT, self.root.parent / _DEVKIT]
        return [folder for root in roots for folder in (root / "data", root)]

    def _devkit_folder(self) -> Path:
        found = next((folder for folder in self._devkits() if (folder / _TRUTH).is_file()), None)
        if found is None:
            raise InputError(
                f"{self._devkits()[1]}: no {_TRUTH} in it or its data/, and images without class folders need it: get"
                f" {_DEVKIT}.tar.gz from image-net.org, unpack it there or give its folder as dataset.devkit; or"
                f" that of Kaggle's {_SOLUTION}"
            )
        need((found / "meta.mat",), f"get {_DEVKIT}.tar.gz from image-net.org and unpack it again")
        return found

    def _devkit_labels(self, meta: Path) -> dict[int, int]:
        """The label of each id of the devkit, whose order is not that of the WordNet ids."""
        from scipy.io import loadmat

        try:
            synsets = loadmat(meta, squeeze_me=True)["synsets"]
            ids = {
                str(wnid): int(number) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
            }
            return {ids[wnid]: label for label, wnid in enumerate(self.classes)}
        except Exception as error:  # readers of damaged .mat files raise nearly anything
            raise InputError(f"{meta}: not the devkit's table of classes ({type(error).__name__}: {error})") from error


def _numbered(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """The validation photographs directly in ``folder``: those with a number alone in their names, and those with the
    WordNet id beside it, as Hugging Face has them.
    """
    matches = [_IMAGE.fullmatch(entry.name) for entry in entries(folder) if is_photograph(entry)]
    numbered = {match[0]: int(match[1]) for match in matches if match and not match[2]}
    return numbered, {match[0]: match[2].lower() for match in matches if match and match[2]}


def _of_kaggle(path: Path) -> dict[int, str]:
    """The WordNet id of each validation photograph's number: "ILSVRC2012_val_00000001,n01751748 1 1 9 9 ..."."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return {int(row["ImageId"][-8:]): row["PredictionString"].split()[0] for row in rows}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: not Kaggle's table of ImageId and PredictionString ({error})") from error
