"""Where each artefact lies, how text and tables are written, and provenance. `tensors` writes what is not text.

A file is written under a temporary name, flushed to the disk and renamed: what exists is whole. Artefacts carry the
settings that shaped their numbers, the versions that made them, and a checksum (XXH3, 64 bits) of all that: reading
with other settings stops and names the setting that differs, reading what has changed since names the file.
"""

import errno
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from xxhash import xxh3_64_hexdigest

from xconsensus import __version__
from xconsensus.errors import CommonError, DamagedError, InputError, SettingsError

Settings = Mapping[str, Any]
HOST = re.sub(r"\W", "_", platform.node())[:60]
# which stage makes the files that lie below such a folder, so many folders deep
_MAKERS = {
    ("explanations", 2): "explain",
    ("consensus", 2): "vote",
    ("scores", 2): "score",
    ("superpixels", 1): "explain",
    ("predictions", 1): "finetune",
    ("weights", 0): "finetune",
    ("images", 0): "explain",
}


def safe_name(name: str, what: str) -> str:
    """``name`` if it can be one file name, else InputError: names come from configs and must not leave the folder."""
    if not name or name.startswith(".") or any(c in name for c in "/\\\0") or len(os.fsencode(name)) > 200:
        raise InputError(f"{what} {name!r} cannot be a file name: leave out / and \\ and a leading dot")
    return name


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under ``path`` only once it is whole and on the disk.

    Raises InputError when the disk is full or the folder cannot be written; what was there before stays.
    """
    temporary = path.with_name(f".{xxh3_64_hexdigest(os.fsencode(path.name))}.{HOST}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CommonError(f"{path}: no space left on the device; free some and run again to go on") from error
        raise CommonError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files below ``folder`` that processes of this machine left when they were killed."""
    for directory, _, names in os.walk(folder):
        for name in names:
            match = name.endswith(".tmp") and re.fullmatch(rf"\.\w+\.{HOST}\.(\d+)\.tmp", name)
            if match and not alive(HOST, int(match[1])):
                with suppress(OSError):  # where nothing can be removed they are no reason to stop
                    Path(directory, name).unlink()


def alive(host: str, pid: int) -> bool:
    """Whether a process runs, as far as this machine can tell: of other hosts it is taken for granted."""
    if host != HOST:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def write_csv(path: Path, table: pd.DataFrame, settings: Settings | None = None) -> None:
    """A CSV file of ``table``; with ``settings``, they stand beside it as <name>.json with a checksum of both."""
    text = table.to_csv(index=False).encode()
    if settings is not None:
        content = {"settings": settings, "versions": versions()}
        write_json(path.with_suffix(".json"), {**content, "checksum": _checksum(content, text)})
    with atomic(path) as file:
        file.write(text)


def write_long_csv(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    """A CSV file of tables of the same columns, one below the other; memory holds one of them at a time."""
    with atomic(path) as file:
        for number, part in enumerate(parts):
            part.to_csv(file, index=False, header=number == 0)


def _checksum(content: Mapping[str, Any], table: bytes) -> str:
    return xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode() + table)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file, keys in the given order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A UTF-8 text file."""
    with atomic(path) as file:
        file.write(text.encode())


def write_figure(path: Path, figure: Any) -> None:
    """A matplotlib figure as ``path``, in the format of its suffix, without a date: equal figures, equal bytes."""
    kind = path.suffix.removeprefix(".")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200, metadata={"CreationDate": None} if kind == "pdf" else None)
    with atomic(path) as file:
        file.write(buffer.getvalue())


def read_csv(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV file as it was written; InputError naming one that is missing, no table, or lacks some of ``columns``."""
    try:
        # empty cells are missing numbers; a member or an image may be called "None" or "nan"
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"image_id": str, "member": str})
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    if absent := [column for column in columns if column not in table]:
        raise InputError(f"{path}: damaged, has no column {absent[0]}; remove it and run its stage again")
    return table


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; InputError naming a file that is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    return content if isinstance(content, dict) else {}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that ``write_csv`` put beside the table ``path``; DamagedError when either has changed since."""
    try:
        content = read_json(path.with_suffix(".json"))
        checksum, settings = content.pop("checksum"), content["settings"]
        whole = checksum == _checksum(content, path.read_bytes())
    except (InputError, KeyError, OSError) as error:
        raise damaged(path.with_suffix(".json"), "cannot be read") from error
    if not (whole and isinstance(settings, dict)):
        raise damaged(path, f"it or {path.stem}.json has changed since it was written")
    return settings


def versions() -> dict[str, str]:
    """Versions that stand in every header; they inform and are not compared."""
    return {
        "xconsensus": __version__,
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
    }


def difference(made: Settings, wanted: Settings) -> str | None:
    """The first setting that differs, as "key is A there, B now"; None when they are equal."""
    there, now = flat(made), flat(wanted)
    for key in [*now, *there]:
        if there.get(key) != now.get(key):
            return f"{key} is {there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
    return None


def check_settings(path: Path, made: Settings, wanted: Settings) -> None:
    """SettingsError naming the first setting in which an artefact on disk differs from the present config."""
    if found := difference(made, as_json(wanted)):
        raise SettingsError(path, found)


def as_json(settings: Settings) -> dict[str, Any]:
    """Settings as they come back from a file: tuples are lists."""
    content: dict[str, Any] = json.loads(json.dumps(settings))
    return content


def flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, "outer.inner" -> value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def damaged(path: Path, reason: str) -> DamagedError:
    """The error of an artefact that is not as it was written; it names the stage that makes it again."""
    above = [folder.name for folder in path.parents]
    stages = (f"xconsensus {stage}" for (name, depth), stage in _MAKERS.items() if above[depth : depth + 1] == [name])
    return DamagedError(path, reason, next(stages, "the stage that made it"))


def remove(path: Path) -> None:
    """Remove a file or a folder of artefacts, present or not; CommonError naming one that cannot be removed."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CommonError(f"{path}: cannot be removed ({error.strerror or error})") from error


@dataclass(frozen=True)
class Store:
    """The folder of one data set, outputs/<dataset>: where each artefact lies."""

    output_dir: Path
    dataset: str
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.output_dir / safe_name(self.dataset, "dataset.name"))

    def weights(self, member: str) -> Path:
        """Trained weights; beside it, .json with history, accuracy and settings."""
        return self.root / "weights" / f"{safe_name(member, 'member')}.safetensors"

    def checkpoint(self, member: str) -> Path:
        """The state of an unfinished training."""
        return self.root / "weights" / f"{safe_name(member, 'member')}.checkpoint.safetensors"

    def predictions(self, split: str, member: str) -> Path:
        """Probabilities of a split's images."""
        return self.root / "predictions" / safe_name(split, "split") / f"{safe_name(member, 'member')}.safetensors"

    def record(self, stage: str, name: str) -> Path:
        """The record of a stage's work on a member; explain has a folder an explainer."""
        return self.root / "status" / stage / f"{safe_name(name, 'member')}.json"

    def images(self, committee: str) -> Path:
        """The images a committee explains: image_id, path, label."""
        return self.root / "images" / f"{safe_name(committee, 'committee.name')}.csv"

    def superpixels(self, segmenter: str) -> Path:
        """Folder of label maps."""
        return self.root / "superpixels" / safe_name(segmenter, "explainer.segmenter.name")

    def explanations(self, explainer: str, member: str) -> Path:
        """Folder of one member's explanations."""
        return self.root / "explanations" / safe_name(explainer, "explainer.name") / safe_name(member, "member")

    def consensus(self, committee: str, explainer: str) -> Path:
        """Folder of a committee's consensus."""
        return self.root / "consensus" / safe_name(committee, "committee.name") / safe_name(explainer, "explainer.name")

    def scores(self, committee: str, explainer: str) -> Path:
        """Folder of members.csv, images.csv, correlations.csv."""
        return self.root / "scores" / safe_name(committee, "committee.name") / safe_name(explainer, "explainer.name")

    def figures(self, committee: str) -> Path:
        """Folder of a committee's figures."""
        return self.root / "figures" / safe_name(committee, "committee.name")

    def tables(self, committee: str) -> Path:
        """Folder of a committee's tables."""
        return self.root / "tables" / safe_name(committee, "committee.name")
