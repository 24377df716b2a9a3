"""What a figure shows, in a few digits: they change with its tables, arrays and texts, and the code that draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files

import matplotlib as mpl
import numpy as np
import pandas as pd
from xxhash import xxh3_128


def fingerprint(name: str, arguments: Sequence[object]) -> str:
    """The fingerprint of figure ``name`` drawn of ``arguments``: 32 hexadecimal digits.

    ``arguments`` are tables, arrays, numbers, texts, and tuples, lists, mappings and dataclasses of these; TypeError
    for anything else. The package ``xconsensus.figures`` and matplotlib's version count too.
    """
    state = xxh3_128(f"{mpl.__version__} {_code()} {name}".encode())
    _add(state, arguments)
    return state.hexdigest()


@cache
def _code() -> str:
    """A digest of the code that draws figures."""
    state = xxh3_128()
    for path in sorted(files("xconsensus.figures").iterdir(), key=lambda path: path.name):
        if path.name.endswith(".py"):
            state.update(path.read_bytes())
    return state.hexdigest()


def _add(state: xxh3_128, value: object) -> None:
    """Add a value with its kind and length, so that values that differ never read alike."""
    match value:
        case None | bool() | int() | float() | str() | np.generic():
            _write(state, type(value).__name__, repr(value).encode())
        case np.ndarray():
            _write(state, f"array {value.dtype} {value.shape}", np.ascontiguousarray(value).tobytes())
        case pd.DataFrame() | pd.Series():
            _write(state, "table", value.to_csv().encode())
        case Mapping():
            _add(state, list(value.items()))
        case list() | tuple():
            _write(state, f"sequence {len(value)}", b"")
            for each in value:
                _add(state, each)
        case _ if is_dataclass(value):
            _add(state, [(field.name, getattr(value, field.name)) for field in fields(value)])
        case _:
            raise TypeError(f"a figure is drawn of {type(value).__name__}, which has no fingerprint")


def _write(state: xxh3_128, kind: str, content: bytes) -> None:
    state.update(f"{kind} {len(content)}\n".encode())
    state.update(content)
