"""Words of the command line on their way to Hydra, and one line for what Hydra finds wrong with them or with a YAML."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from xconsensus.errors import InputError, nearest
from xconsensus.keys.checks import takes_words
from xconsensus.keys.schema import GROUPS

# options that were taken out, and what does what they were for
REMOVED = {
    "committee/table1": "run experiment=imagenet figure=table1: its five models by the vote of all 81",
    "committee/resnet16": "run experiment=imagenet figure=fig07: the 16 ResNets by their own vote and by all 81's",
    "committee/resnet16_full": "run experiment=imagenet figure=fig07: the 16 ResNets by their own vote and by all 81's",
}
# a word that is neither quoted nor a list, a sweep, an interpolation or Hydra's null
_PLAIN = re.compile(r"""(?!null$|'|")[^"\\[\]{}(),$\\]+""")


def for_hydra(word: str) -> str:
    """A word of the command line as Hydra takes it.

    Keys are added where they are not: `checks.check_keys` knows which there may be. One of an explainer among several
    has its place below of_explainer, and what reads like a number, or has an equals sign, is a word where a key takes
    words.
    """
    key, equals, value = word.partition("=")
    if not equals or not re.match(r"[A-Za-z_]", key) or key in GROUPS or re.search(r"[/@]|^hydra\.", key):
        return word
    key = re.sub(r"^explainers\.(?=[^.]+\.)", "of_explainer.", key)
    return f'++{key}="{value}"' if _PLAIN.fullmatch(value) and takes_words(key) else f"++{key}={value}"


def as_given(word: str) -> str:
    """The word of which `for_hydra` has made another."""
    return re.sub(r"^of_explainer\.", "explainers.", word.removeprefix("++"))


@contextmanager
def faults_told(folder: Path | None = None) -> Iterator[None]:
    """Turn what Hydra, OmegaConf and the YAML reader find wrong into InputError. ``folder`` is that of --config-dir."""
    try:
        yield
    except Exception as error:
        if not _is_fault(error):
            raise
        raise InputError(_explained(error, folder)) from error


def _is_fault(error: Exception) -> bool:
    return (
        isinstance(error, HydraException | OmegaConfBaseException)
        or type(error).__module__.startswith("yaml.")
        or (isinstance(error, ValueError) and str(error).startswith("Config group override must be"))
    )


def _explained(error: Exception, folder: Path | None) -> str:
    text = str(error) or str(error.__cause__ or "")
    if (mark := getattr(error, "problem_mark", None)) is not None:
        problem = f"{getattr(error, 'problem', '')}".replace("found character '\\t' that", "a tab")
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {problem}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if match := re.search(r"Ambiguous value for argument '(.*)'", text):
        return _unreadable(match[1])
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(str(error.missing_cfg_file), error.options or (), folder)
    if isinstance(error, ValueError) and text.startswith("Config group override"):
        return f"{text}: give the option's name, as in explainer=lime"
    if match := re.search(r"Could not (?:override|delete from config\.)[^']*'([^'@]+)", text):
        return f"{as_given(match[1])}: no such key; see --help for all"
    if match := re.search(r"Incompatible key type '.*'\n\s*full_key: (.*)", text):
        return f"{match[1]}: YAML reads a name there as null or a date: put it in quotes"
    lines = [line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line]
    return "; ".join(lines[:2]) or type(error).__name__


def _unreadable(override: str) -> str:
    """What to type in place of a word that Hydra cannot read, or reads as several values."""
    key, equals, value = as_given(override).partition("=")
    if not equals:
        return f"{key}: no key=value; a value with spaces needs quotes, as in 'dataset.root=my photos'"
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    escaped += "\\" * (len(escaped) - len(escaped.rstrip("\\")))
    sweep = "; to go through several values add --multirun" if re.search(r"[^\[({]*,", value) else ""
    quoted = shlex.quote(f'{key}="{escaped}"')
    return f"{key}={value} cannot be read: quote it twice, as in {quoted}{sweep}"


def _no_option(missing: str, options: Sequence[str], folder: Path | None) -> str:
    """What to write in place of a group's option that is not there."""
    group, _, name = missing.partition("/")
    if instead := REMOVED.get(missing):
        return f"{group}={name} was taken out: {instead}"
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and len(path.parts) > 1 and path.is_file():
        return f"{group}={name} is a path: give the folder above {group}/ and the name, {_by_folder(path, group)}"
    for own in [folder] if folder else []:
        if (own / group / f"{path.stem}.yml").is_file():
            return f"{own / group / path.stem}.yml: files of that suffix are not read; rename it to {path.stem}.yaml"
    if path.suffix in (".yaml", ".yml") and path.stem in options:
        return f"{group}={name}: leave out the suffix: {group}={path.stem}"
    return f"{group}={name}: no such {group}{nearest(name, options)}"


def _by_folder(path: Path, group: str) -> str:
    if path.parent.name == group and path.suffix == ".yaml":
        return f"--config-dir {path.parent.parent} {group}={path.stem}"
    return f"--config-dir FOLDER {group}={path.stem}, the file being FOLDER/{group}/{path.stem}.yaml"


def check_own_files(folder: Path) -> None:
    """InputError for a file of the user's that would stand in place of a stage's, and cannot."""
    for path in sorted(folder.glob("*.yaml")):
        beside = path.stem in ("finetune", "explain", "vote", "score", "plot", "run", "locate", "status", "base")
        if beside and not re.search(r"^defaults:", path.read_text(errors="replace"), re.MULTILINE):
            raise InputError(
                f"{path} would stand in place of the package's own: move it to {folder}/experiment/{path.name}, with"
                f" `# @package _global_` as its first line, and give experiment={path.stem}"
            )
