"""The keys as ``--help`` prints them."""

import re
from typing import Any, Literal, get_args, get_origin

from xconsensus.keys.checks import alternatives, words_of
from xconsensus.keys.schema import OWN, keys_of, sections

_LIMITS = {"least": "at least", "most": "at most", "above": "above", "below": "below"}


def with_sentences(text: str) -> str:
    """A text that holds a config as YAML, with each key's kind and sentence as a comment behind it."""
    lines, path = [], [""]
    for line in text.splitlines():
        match = re.match(r"( *)([^\s:-][^:]*):(?: (.*))?$", line)
        if match:
            path[len(match[1]) // 2 :] = [match[2]]
        lines.append((line, ".".join(path) if match else "", match[3] if match else ""))
    values = {full: value for _, full, value in lines}
    chosen = {group: {own: values.get(f"{group}.{own}")} for group, own in OWN.items()}
    known = {f"{p}{name}": each for p, kind in sections(chosen).items() for name, each in keys_of(kind).items()}
    return "".join(f"{line}{_comment(known.get(full), line)}\n" for line, full, _ in lines)


def _comment(found: tuple[Any, Any] | None, line: str) -> str:
    if not found or "sentence" not in found[1].metadata:
        return ""
    return f"{' ' * (28 - len(line))}  # {_kind(*found)}: {found[1].metadata['sentence']}"


def _kind(hint: Any, field: Any) -> str:
    words: list[str] = []
    for kind in alternatives(hint):
        words += get_args(kind) if get_origin(kind) is Literal else [words_of(kind).removeprefix("a ")]
    limits = [f"{_LIMITS[name]} {field.metadata[name]}" for name in _LIMITS if name in field.metadata]
    return ", ".join([" | ".join(words), *limits])
