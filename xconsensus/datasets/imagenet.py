"""ImageNet-1k (ILSVRC 2012): class folders, or the validation photographs in one folder with the devkit's labels."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class ImageNet(ImageFolder):
    """Class folders named by WordNet id, or ILSVRC2012_val_*.JPEG in one folder; each split may be either, or both.

    Labels index the 1000 sorted WordNet ids, which are the classes, also where only some of them are there.
    ``devkit`` is the devkit's folder, needed for images in one folder only; None for ILSVRC2012_devkit_t12 inside or
    beside ``root``. The other arguments are those of ``ImageFolder``.
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

    def _loose(self, folder: Path) -> list[Record]:
        numbered = _numbered(folder)
        return self._labelled(folder, numbered) if numbered else []

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
        return present(records, folder)

    def _devkit_folder(self) -> Path:
        roots = [self.devkit] if self.devkit else [self.root / _DEVKIT, self.root.parent / _DEVKIT]
        folders = [folder for root in roots for folder in (root / "data", root)]
        found = next((folder for folder in folders if (folder / _TRUTH).is_file()), None)
        if found is None:
            raise InputError(
                f"{roots[0]}: no {_TRUTH} in it or its data/, and images without class folders need it:"
                f" get {_DEVKIT}.tar.gz from image-net.org, unpack it there or give its folder as dataset.devkit"
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


def _numbered(folder: Path) -> dict[str, int]:
    """The validation photographs directly in ``folder``, with the number in their names."""
    matches = (_IMAGE.fullmatch(name) for name in sorted(os.listdir(folder)))
    return {match[0]: int(match[1]) for match in matches if match}
