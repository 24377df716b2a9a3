"""Which figures or tables lie in a folder and what they show: no figure is drawn again while that has not changed, and
what is of other explainers does not stay beside what is of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_hexdigest

from xconsensus.errors import InputError
from xconsensus.store.files import move, read_json, write_bytes, write_json


class Drawn:
    """The figures of a folder: of each what it shows and a checksum of each of its files."""

    def __init__(self, folder: Path, figures: dict[str, Any]) -> None:
        self.folder = folder
        self.figures = figures

    def is_shown(self, stem: str, shows: str) -> bool:
        """Whether the figure lies there as it was drawn, and ``shows`` what it is to show."""
        made = self.figures.get(stem)
        return isinstance(made, dict) and made.get("shows") == shows and self._are_whole(stem, made.get("files"))

    def write(self, stem: str, shows: str, files: Mapping[str, bytes]) -> None:
        """Write a figure's files, by suffix."""
        for suffix, content in files.items():
            write_bytes(self.folder / f"{stem}{suffix}", content)
        checksums = {suffix: xxh3_64_hexdigest(content) for suffix, content in files.items()}
        self.figures[stem] = {"shows": shows, "files": checksums}

    def of(self, stems: Sequence[str], explainers: Sequence[str]) -> None:
        """Note that figures are of these ``explainers``."""
        for stem in stems:
            self.figures[stem] = {**self.figures[stem], "explainers": list(explainers)}

    def set_aside(self, explainers: Sequence[str]) -> list[str]:
        """Move figures of other ``explainers`` than these into the folder ``earlier``; which."""
        others = [
            stem
            for stem, made in self.figures.items()
            if isinstance(made, dict) and made.get("explainers", list(explainers)) != list(explainers)
        ]
        for stem in others:
            for suffix in self.figures.pop(stem)["files"]:
                move(self.folder / f"{stem}{suffix}", self.folder / "earlier")
        return others

    def _are_whole(self, stem: str, files: object) -> bool:
        """Whether the files of a figure are there as they were written."""
        if not isinstance(files, dict) or not files:
            return False
        paths = {self.folder / f"{stem}{suffix}": checksum for suffix, checksum in files.items()}
        return all(path.is_file() and xxh3_64_hexdigest(path.read_bytes()) == paths[path] for path in paths)


@contextmanager
def drawn_in(folder: Path, log: Path) -> Iterator[Drawn]:
    """The figures of a folder, kept in ``log``: what is drawn until the block ends, however it does, stands there."""
    try:
        before = read_json(log)
    except InputError:  # none yet, or nobody knows which
        before = {}
    drawn = Drawn(folder, {**before})
    try:
        yield drawn
    finally:
        if drawn.figures != before:
            write_json(log, drawn.figures)
