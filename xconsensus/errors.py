"""The exception that means "the input is at fault", shown as a single line, and help with misspelt names."""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# which stage makes the files that lie below such a folder, so many folders deep
_MAKERS = {
    ("explanations", 2): "explain",
    ("consensus", 2): "vote",
    ("scores", 2): "score",
    ("locations", 2): "locate",
    ("locations", 3): "locate",
    ("superpixels", 1): "explain",
    ("predictions", 1): "finetune",
    ("weights", 0): "finetune",
    ("images", 0): "explain",
}


class InputError(Exception):
    """Something the user gave (a key, a file, a member) is wrong.

    The message is one line: it names the culprit and says what to do. The command line prints it without a
    traceback and exits with code 2; any other exception is a defect of the program and keeps its traceback.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause with the names closest to a misspelt one: "; nearest: a, b", or "; known: ..." when none is close."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=4, cutoff=0.5)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 20 else ""


def check_type(key: str, value: object, example: object) -> None:
    """InputError unless ``value`` is of the kind of ``example``: a bool, an integer, a number or a text."""
    match example:
        case bool():
            right, kind = isinstance(value, bool), "true or false"
        case int():
            right, kind = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        case float():
            right, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        case str():
            right, kind = isinstance(value, str), "a word"
        case _:
            return
    if not right:
        raise InputError(f"{key}={value} is not {kind}")


def maker_of(path: Path) -> str:
    """The stage that makes what lies at ``path`` below outputs/<dataset>; empty for what no stage makes."""
    above = [folder.name for folder in path.parents]
    return next((stage for (name, depth), stage in _MAKERS.items() if above[depth : depth + 1] == [name]), "")


class MissingStageError(InputError):
    """A stage needs what an earlier one has not made yet."""


class SettingsError(InputError):
    """The artefact ``path`` was made with other settings: its stage, and `run`, make it again with overwrite=true."""

    def __init__(self, path: Path, difference: str) -> None:
        super().__init__(path, difference)  # all of them, as another process makes the error anew from its arguments
        self.path, self.difference = path, difference

    def __str__(self) -> str:
        stage = maker_of(self.path)
        how = (
            "xconsensus locate" if stage == "locate" else f"xconsensus run (or {stage})" if stage else "xconsensus run"
        )
        return f"{self.path} was made with other settings: {self.difference}; set it back, or {how} overwrite=true"


class RuleError(SettingsError):
    """The artefact ``path`` was made by an earlier rule, of which ``difference`` came; no setting brings that back."""

    def __str__(self) -> str:
        return f"{self.path}: {self.difference}; {maker_of(self.path)} overwrite=true makes it again"


class DamagedError(InputError):
    """The artefact ``path`` is not as it was written: its stage makes it again, every other one refuses it."""

    def __init__(self, path: Path, reason: str, stage: str) -> None:
        super().__init__(path, reason, stage)
        self.path, self.reason, self.stage = path, reason, stage

    def __str__(self) -> str:
        return f"{self.path}: damaged ({self.reason}); run {self.stage} to make it again"


class MembersError(InputError):
    """Some members failed, after the others were done."""


class CommonError(InputError):
    """What fails every member alike, an image or the disk: going on with the next member is no use."""


class ContentsError(SettingsError, CommonError):
    """The artefact ``path`` was made of ``images`` that hold something else now, are read otherwise, or are labelled
    otherwise, as ``difference`` says.
    """

    def __init__(self, path: Path, images: Sequence[str], difference: str = "") -> None:
        others = f" and {len(images) - 1} more" if len(images) > 1 else ""
        super().__init__(
            path, difference or f"image {images[0]}{others} held something else then, or was read otherwise"
        )
        self.args = (path, images, difference)
        self.images = images


def safe_name(name: str, what: str) -> str:
    """``name`` if it can be one file name, else InputError: names come from configs and must not leave the folder."""
    if not name or name.startswith(".") or any(c in name for c in "/\\\0") or len(os.fsencode(name)) > 200:
        raise InputError(f"{what} {name!r} cannot be a file name: leave out / and \\ and a leading dot")
    return name
