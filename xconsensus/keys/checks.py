"""The config held against the schema: which keys there are, and what each takes."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.core.hydra_config import HydraConfig

from xconsensus.errors import InputError, nearest
from xconsensus.keys.schema import KINDS, OWN, REQUIRED, Folder, keys_of, sections
from xconsensus.progress import say_once

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    Folder: "a folder",
    NoneType: "null",
    list: "a list",
    dict: "keys with values",
    Any: "anything",
}


# --- keys ---


def check_keys(raw: Mapping[str, Any]) -> None:
    """InputError for the first key of the unresolved config that nothing reads, with the nearest, or that lacks."""
    if isinstance(raw.get("experiment"), dict):
        raise InputError(
            "experiment: its keys are not where they belong: the file's first line must be `# @package _global_`"
        )
    texts = dict(_texts(raw))
    referred = {match.lstrip(".") for text in texts.values() for match in re.findall(r"\$\{([\w.]+)\}", text)}
    for prefix, kind in sections(raw).items():
        group = _at(raw, prefix)
        if not isinstance(group, dict):
            raise InputError(f"{prefix.rstrip('.')}={group} is not {_WORDS[dict]}")
        known = keys_of(kind)
        for name in group:
            full = f"{prefix}{name}"
            if name not in known and name != "experiment" and not (_is_free(raw, prefix) or _is_read(full, referred)):
                raise InputError(f"{full}: no such key{nearest_key(full, raw)}; see --help for all")
        for name, (_, field) in known.items():
            if field.metadata.get("default") == REQUIRED and name not in group:
                where = _own_file(raw, prefix[:-1], name)
                raise InputError(f"{prefix}{name} is not set: add `{name}:` to {where}, or give {prefix}{name}=...")
    if unset := sorted((key.count("."), key) for key, text in texts.items() if text == REQUIRED):
        raise InputError(
            f"{unset[0][1]} is not set: give it on the command line"
        )  # the plainest: others may refer to it


def _at(raw: Mapping[str, Any], prefix: str) -> Any:
    return raw.get(prefix.rstrip(".")) if prefix else raw


def _own_file(raw: Mapping[str, Any], group: str, key: str) -> str:
    """The file that a group without ``key`` was read from, where Hydra has found it below the user's own folders."""
    if HydraConfig.initialized():
        runtime = HydraConfig.get().runtime
        options = [runtime.choices.get(group), *(raw["explainers"] if group == "explainer" else [])]
        folders = [source.path for source in runtime.config_sources if source.schema == "file"]
        for path in (Path(folder, group, f"{option}.yaml") for option in options for folder in folders):
            if path.is_file() and not re.search(rf"^{key}\s*:", path.read_text(errors="replace"), re.MULTILINE):
                return str(path)
    return f"the {group}'s YAML"


def _is_free(raw: Mapping[str, Any], prefix: str) -> bool:
    """Whether a group's keys are those of own code, which alone knows them."""
    group = prefix.rstrip(".")
    return group in OWN and raw[group].get(OWN[group]) not in KINDS[group]


def _is_read(full: str, referred: set[str]) -> bool:
    return any(name == full or name.startswith(f"{full}.") or full.endswith(f".{name}") for name in referred)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each key and its value, of those that are text."""
    if isinstance(value, str):
        yield key, value
    below = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, each in below:
        yield from _texts(each, f"{key}.{name}".lstrip("."))


def nearest_key(full: str, raw: Mapping[str, Any]) -> str:
    """`nearest` among all keys of the schema, and groups."""
    known = [f"{prefix}{name}" for prefix, kind in sections(raw).items() for name in keys_of(kind)]
    elsewhere = [each for each in known if each.endswith(f".{full}")]  # one that belongs deeper
    return f"; nearest: {', '.join(elsewhere)}" if elsewhere else nearest(full, [*known, "experiment"])


# --- values ---


def taken(values: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config with each value as its key takes it: words that YAML reads as numbers are words, ~ is a
    folder. Nothing is added. InputError naming the first key whose value cannot be.
    """
    found = dict(values)
    for prefix, kind in sections(values).items():
        if prefix and prefix[:-1] not in values:
            continue
        group = found if not prefix else dict(found[prefix[:-1]])
        for name, (hint, field) in keys_of(kind).items():
            if name in group and f"{name}." not in sections(values):
                group[name] = _take(f"{prefix}{name}", group[name], hint)
                _check_limits(f"{prefix}{name}", group[name], field.metadata)
        if prefix:
            found[prefix[:-1]] = group
    return found


def _take(key: str, value: Any, hint: Any) -> Any:
    kinds = alternatives(hint)
    for kind in kinds:
        fits, as_taken = _fit(key, value, kind)
        if fits:
            return as_taken
    choices = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if len(kinds) == 1 and choices:
        raise InputError(
            f"{key}={value} is none of {', '.join(choices)}{nearest(str(value), choices).split('; known')[0]}"
        )
    words = choices + [words_of(kind) for kind in kinds if get_origin(kind) is not Literal]
    shown = "null" if value is None else value
    raise InputError(f"{key}={shown} is not {' or '.join(words)}{_advice(key, value, kinds)}")


def alternatives(hint: Any) -> Sequence[Any]:
    """The kinds that a key takes one of."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def words_of(kind: Any) -> str:
    """A kind in words."""
    return _WORDS[get_origin(kind) or kind]


def _advice(key: str, value: Any, kinds: Sequence[Any]) -> str:
    """What to write in place of a value of another kind."""
    if isinstance(value, str | int | float) and any(get_origin(kind) is list for kind in kinds):
        return f"; write {key}=[{value}]"
    if isinstance(value, dict | list) and (str in kinds or Folder in kinds):
        return f"; a word with brackets or commas needs quotes twice: '{key}=\"...\"'"
    return ""


def _fit(key: str, value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value is of a kind, and what it is then."""
    if kind is Any:
        return True, value
    if get_origin(kind) is Literal:
        word = str(value) if isinstance(value, float) else value  # a release like 1.8 is a word that YAML reads as one
        return word in get_args(kind) and isinstance(word, str), word
    if kind in (str, Folder):
        fits = isinstance(value, str | bool | int | float)
        word = _as_word(key, value) if fits else ""
        return fits, os.path.expanduser(word) if kind is Folder else word
    if get_origin(kind) is list:
        return (fits := isinstance(value, list)), fits and [_take(key, each, *get_args(kind)) for each in value]
    if get_origin(kind) is dict:
        return (fits := isinstance(value, dict)), fits and _take_keys(key, value, get_args(kind)[1])
    if isinstance(value, bool) or kind in (bool, NoneType):
        return type(value) is kind, value
    return isinstance(value, int if kind is int else int | float) and not math.isnan(value), value


def _take_keys(key: str, value: Mapping[Any, Any], inner: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in value.items():
        word = _as_word(key, name)
        own = _take(f"{key}.{word}", each, inner)
        found[word] = {**found[word], **own} if isinstance(own, dict) and isinstance(found.get(word), dict) else own
    return found


def _as_word(key: str, value: Any) -> str:
    """A word that YAML or Hydra has read as a number or as true or false, with a line where that may change it."""
    word = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, bool | float):
        say_once(f"{key}: a word there is read as {word}, which it is then; in quotes it is as written")
    return word


def _check_limits(key: str, value: Any, limits: Mapping[str, Any]) -> None:
    if isinstance(value, list):
        for each in value:
            _check_limits(key, each, limits)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if value < limits.get("least", -math.inf):
        raise InputError(f"{key}={value} is less than {limits['least']}")
    if value > limits.get("most", math.inf):
        raise InputError(f"{key}={value} is more than {limits['most']}")
    if not limits.get("above", -math.inf) < value or not value < limits.get("below", math.inf):
        ends = [f"{end} {limits[end]}" for end in ("above", "below") if end in limits]
        raise InputError(f"{key}={value} is not {' and '.join(ends)}")


# --- words of the command line ---


def takes_words(key: str) -> bool:
    """Whether a key takes a word and no number, so that 1e3 and true are words, too."""
    prefix, _, name = key.rpartition(".")
    group = f"{prefix}." if prefix else ""
    kinds = KINDS.get(prefix, {}).values()
    for kind in (*kinds, *(k for p, k in sections({}).items() if p == group)):
        if name in (known := keys_of(kind)):
            options = alternatives(known[name][0])
            return any(option in (str, Folder) for option in options) and not {bool, int, float}.intersection(options)
    return False
