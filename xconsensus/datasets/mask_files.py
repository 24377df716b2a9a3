"""Where the mask of a photograph lies: by its name, with any suffix and perhaps a word, as 0_mask.png or mask_0.png of
0.jpg; or called mask.png beside one photograph.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from unicodedata import normalize

from xconsensus.datasets.images import SUFFIXES
from xconsensus.errors import InputError

_BARE = "masks?|seg|segmentation|gt|ground[ _-]?truth|labels?|trimap|matte"
_WORD = f"(?:{_BARE}|alpha|annotations?)"
_WORDED = re.compile(rf"(.+?)[ _.-]{_WORD}(?:[ _-]?\d+)?|{_WORD}[ _.-](.+)|(.+?)masks?", re.I)
_WORD_ALONE = re.compile(rf"(?:{_BARE})(?:[ _-]?\d+)?", re.I)
_PHOTOGRAPH = re.compile("image|img|photo|photograph|picture|pic|rgb|original|input", re.I)
_PHOTOGRAPHIC = (".jpg", ".jpeg")  # no format for masks


def masks_among(names: Iterable[str], by_suffix: bool) -> dict[str, str]:
    """The image files of one folder that are masks of others -> these: 0_mask.png and mask_0.png where there is 0.png
    or 0.jpg, mask.png where there is one other image, or one called image; ``by_suffix`` 0.png where there is 0.jpg.
    """
    stems: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        stems[_stem(name)].append(name)
    worded = {stem: name for stem in stems if (name := _without_word(stem)) in stems}
    found = {name: stems[photograph][0] for stem, photograph in worded.items() for name in stems[stem]}
    others = [stem for stem in stems if stem not in worded and not _WORD_ALONE.fullmatch(stem)]
    others = others if len(others) == 1 else [stem for stem in others if _PHOTOGRAPH.fullmatch(stem)]
    if len(others) == 1:
        found |= {name: stems[others[0]][0] for stem in stems if _WORD_ALONE.fullmatch(stem) for name in stems[stem]}
    for stem in stems.keys() - worded.keys() - set(worded.values()) if by_suffix else ():
        photographs = [name for name in stems[stem] if name.lower().endswith(_PHOTOGRAPHIC)]
        if len(photographs) == 1:
            found |= {name: photographs[0] for name in stems[stem] if name not in photographs}
    return found


def is_called_mask(name: str) -> bool:
    """Whether a file has the name of a mask, and of no photograph, as mask.png."""
    return bool(_WORD_ALONE.fullmatch(_stem(name)))


class MaskFolder:
    """Masks below ``root``, in the layout of the photographs below ``photographs``, perhaps the same folder.

    Accents may be written in one character or, as on a Mac, in two. What lies there is looked at once.
    """

    def __init__(self, root: Path, photographs: Path) -> None:
        self.root, self.photographs = root, photographs
        self._folders: dict[Path, tuple[dict[str, list[str]], dict[str, list[str]]]] = {}
        self._stems = cache(_stems)

    @cached_property
    def is_beside(self) -> bool:
        """Whether masks and photographs lie in the same folders."""
        return self.root.exists() and self.root.samefile(self.photographs)

    def file(self, photograph: Path) -> Path:
        """The mask of a photograph; InputError that shows what lies there where it has none, or several."""
        folder, relative = self.root, photograph.relative_to(self.photographs)
        for part in relative.parts[:-1]:
            folder = self._subfolder(folder, part)
        named, worded = self._files(folder)
        same = named.get(_stem(relative.name), [])
        whole = normalize("NFC", relative.name)  # 0.jpg of 0.jpg.png
        for names in (
            [relative.name] * (relative.name in same),
            named.get(whole, []),
            same,
            worded.get(_stem(relative.name), []) + worded.get(whole, []),
            [] if self.is_beside else self._alone(folder, photograph),
        ):
            if paths := [path for name in names if _is_other(path := folder / name, photograph)]:
                break
        else:
            raise InputError(
                f"{folder / relative.stem}.*: no mask for image {photograph}; {self._what_lies_in(folder)}"
            )
        if len(paths) > 1 and names[0] not in same:
            several = ", ".join(path.name for path in paths)
            raise InputError(f"{folder}: several masks for image {photograph}: {several}; join them in one")
        alike = [] if self.is_beside else self._stems(photograph.parent)[_stem(relative.name)]
        if len(alike) > 1 and paths[0].name != relative.name and not normalize("NFC", paths[0].name).startswith(whole):
            raise InputError(
                f"{paths[0]}: of which image is it the mask, {' or '.join(alike)}? Give them names that differ in more"
                f" than the suffix, or call it {relative.name}.png"
            )
        return paths[0]

    def _subfolder(self, folder: Path, name: str) -> Path:
        if (folder / name).is_dir() or not folder.is_dir():
            return folder / name
        alike = (other for other in os.listdir(folder) if normalize("NFC", other) == normalize("NFC", name))
        return folder / next(alike, name)

    def _files(self, folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The masks in a folder by their names without suffix, and those with a word by their names without it."""
        if folder not in self._folders:
            named: defaultdict[str, list[str]] = defaultdict(list)
            worded: defaultdict[str, list[str]] = defaultdict(list)
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            images = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
            among = masks_among(images, by_suffix=True) if self.is_beside else dict.fromkeys(images, "")
            for name, beside in among.items():
                named[stem := _stem(name)].append(name)
                if photograph := _stem(beside) if is_called_mask(name) else _without_word(stem):
                    worded[photograph].append(name)
            self._folders[folder] = dict(named), dict(worded)
        return self._folders[folder]

    def _alone(self, folder: Path, photograph: Path) -> list[str]:
        """The masks in a folder called mask.png or the like, where the photograph is the only one in its own."""
        beside = sum(map(len, self._stems(photograph.parent).values()))
        found = [name for names in self._files(folder)[0].values() for name in names if is_called_mask(name)]
        return found if beside == 1 else []

    def _what_lies_in(self, folder: Path) -> str:
        if self.is_beside:
            return "no photograph is its own mask: call it as the image, with _mask before the suffix"
        while not folder.is_dir():
            folder = folder.parent
        names = sorted(os.listdir(folder))
        return f"{folder} holds {', '.join(names[:4]) or 'nothing'}{' ...' if len(names) > 4 else ''}"


def _stems(folder: Path) -> Mapping[str, list[str]]:
    """The image files in a folder by their names without suffix."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(os.listdir(folder)):
        if Path(name).suffix.lower() in SUFFIXES:
            found[_stem(name)].append(name)
    return found


def _without_word(stem: str) -> str:
    """The name of the photograph that a mask's name with a word stands for; empty for a name without."""
    found = _WORDED.fullmatch(stem)
    return (found[1] or found[2] or found[3]) if found else ""


def _stem(name: str) -> str:
    return normalize("NFC", Path(name).stem)


def _is_other(path: Path, photograph: Path) -> bool:
    return path.is_file() and not path.samefile(photograph)
