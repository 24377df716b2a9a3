"""Words of the command line on their way to Hydra, and one line for what Hydra finds wrong with them or with a YAML."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from traceback import walk_tb

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

# what Hydra and OmegaConf say, and what that means
_MEANINGS = (
    (r"Could not (?:override|delete from config\.)[^']*'([^'@]+)", r"\1: no such key; see --help for all"),
    (r"(Unsupported [^:]* in defaults|Config group override must be)[ :]*(.*)", r"a YAML's list of defaults: \1 \2"),
    (r"issing mandatory value: .* full_key: (\S+)", r"\1 is not set: give it on the command line"),
    (
        r"Environment variable '(\S+)' not found.* full_key: (\S+)",
        r"\2: the environment has no \1: export \1=..., or give the value itself",
    ),
    (r"Interpolation key '(\S+)' not found.* full_key: (\S+)", r"\2: ${\1} is no key of the config"),
    (
        r"Unsupported interpolation type (\S+).* full_key: (\S+)",
        r"\2: ${\1:...}: of these only oc.env and now are known",
    ),
    (
        r"Incompatible key type '.*'\n\s*full_key: (\S+)",
        r"\1: YAML reads a name there as null or a date: put it in quotes",
    ),
)


def for_hydra(word: str) -> str:
    """A word of the command line as Hydra takes it.

    Keys are added where they are not: `checks.check_keys` knows which there may be. One of an explainer among several
    has its place below of_explainer, and what reads like a number, or has an equals sign, is a word where a key takes
    words.
    """
    key, equals, value = word.partition("=")
    if not equals or not re.match(r"[A-Za-z_]", key) or re.search(r"[/@]|^hydra\.", key):
        return word
    if key in GROUPS:
        check_option(key, value)
        return f'{key}="{value}"' if _PLAIN.fullmatch(value) else word
    key = re.sub(r"^explainers\.(?=[^.]+\.)", "of_explainer.", key)
    return f'++{key}="{value}"' if _PLAIN.fullmatch(value) and takes_words(key) else f"++{key}={value}"


def check_option(group: str, name: str) -> None:
    """InputError for what is no option's name: a file, or a list where only one explainer is chosen."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        raise InputError(
            f"{group}={name} is a path: give the folder above {group}/ and the name, {_by_folder(path, group)}"
        )
    if (short := re.sub(r"\.ya?ml(?=$|[,\]])", "", name)) != name:
        raise InputError(f"{group}={name}: leave out the suffix: {group}={short}")
    if group == "explainer" and name.startswith("["):
        raise InputError(f"{group}={name}: it takes one name, as in {group}=lime; several are explainers={name}")


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
    if type(error) is ValueError:
        *_, (frame, _) = walk_tb(error.__traceback__)
        return str(frame.f_globals["__name__"]).startswith("hydra.")
    return isinstance(error, HydraException | OmegaConfBaseException) or type(error).__module__.startswith("yaml.")


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
    for pattern, meaning in _MEANINGS:
        if match := re.search(pattern, text, re.DOTALL):
            return as_given(match.expand(meaning))
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
    if folder and (path := folder / group / f"{name}.yml").is_file():
        return f"{path}: files of that suffix are not read; rename it to {name}.yaml"
    return f"{group}={name}: no such {group}{nearest(name, options)}"


def _by_folder(path: Path, group: str) -> str:
    if path.parent.name == group and path.suffix == ".yaml":
        return f"--config-dir {path.parent.parent} {group}={path.stem}"
    return f"--config-dir FOLDER {group}={path.stem}, the file being FOLDER/{group}/{path.stem}.yaml"


def check_own_files(folder: Path) -> None:
    """InputError for a file of the user's that is no UTF-8, or would stand in place of a stage's, and cannot."""
    for path in folder.rglob("*.yaml"):
        try:
            path.read_text("utf-8")
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise InputError(f"{path}, line {line}: letters that are not in UTF-8: save the file as that") from error
    for path in sorted(folder.glob("*.yaml")):
        beside = path.stem == "base" or files("xconsensus.conf").joinpath(path.name).is_file()
        if beside and not re.search(r"^defaults:", path.read_text(errors="replace"), re.MULTILINE):
            raise InputError(
                f"{path} would stand in place of the package's own: move it to {folder}/experiment/{path.name}, with"
                f" `# @package _global_` as its first line, and give experiment={path.stem}"
            )
