"""Code of the user's own: a class or function in a Python file or an installed package, named in the config and run."""

import hashlib
import importlib
import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from xconsensus.errors import InputError


def is_own(name: str) -> bool:
    """Whether ``name`` is of the form that `load` takes, not one of the package's own names."""
    return "." in name


def load(name: str, key: str) -> Any:
    """What ``path/to/file.py:NAME`` or ``package.module.NAME`` stands for; importing it runs the code.

    Raises InputError, naming ``key``, the config key or member, when there is no such code or it fails.
    """
    source, _, attribute = name.rpartition(":" if ".py:" in name else ".")
    try:
        module = _from_file(source) if source.endswith(".py") else importlib.import_module(source)
        return getattr(module, attribute)
    except Exception as error:  # the user's code raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{key}: cannot import {name} ({reason})") from error


def settled(name: str) -> str:
    """``name`` as artefacts record it: a file without its folder but with a digest of its content, net.py@3f...:Net.

    What the file imports, and installed packages, are not looked at. InputError for a file that cannot be read.
    """
    if ".py:" not in name:
        return name
    source, _, attribute = name.rpartition(":")
    try:
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from error
    return f"{Path(source).name}@{digest}:{attribute}"


class _SourceLoader(SourceFileLoader):
    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Writes no bytecode: the folder is the user's, and a dry run leaves it as it was."""


def _from_file(source: str) -> Any:
    unique = f"xconsensus_own_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    loader = _SourceLoader(unique, source)
    spec = importlib.util.spec_from_file_location(unique, source, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
