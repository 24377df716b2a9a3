"""Code of the user's own: a class or function in a Python file or an installed package, named in the config and run."""

import ast
import builtins
import hashlib
import importlib
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb, walk_tb
from types import ModuleType
from typing import Any

import numpy as np

from xconsensus.errors import InputError
from xconsensus.progress import log

_PACKAGE = "xconsensus_own_"  # each folder of own files is one
_files: set[str] = set()  # own files that have been imported
_replaced: list[object] = []  # streams in place of standard output; collected, they would close what they wrap


def is_own(name: str) -> bool:
    """Whether ``name`` is of the form that `load` takes, not one of the package's own names."""
    return "." in name


def load(name: str, key: str) -> Any:
    """What ``path/to/file.py:NAME`` or ``package.module.NAME`` stands for; importing it runs the code, `contained`.

    Raises InputError, naming ``key``, the config key or member, when there is no such code or it fails.
    """
    source, _, attribute = name.rpartition(":" if ".py:" in name else ".")
    try:
        with contained(), _own_draws():
            module = _from_file(source) if source.endswith(".py") else importlib.import_module(source)
            return getattr(module, attribute)
    except Exception as error:  # the user's code raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{key}: cannot import {name} ({reason})") from error


class EndedError(Exception):
    """Own code called sys.exit, argparse's way of refusing arguments too."""


def ended(end: SystemExit) -> str:
    """What own code did that raised ``end``, in words; raises ``end`` itself where own code did not.

    Launchers end a job that they queue again by sys.exit in a handler of signals, which interrupts own code, too.
    """
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    if any(frame.f_code in handlers for frame, _ in walk_tb(end.__traceback__)):
        raise end
    return f"it ends the program, by sys.exit({'' if end.code is None else end.code}){place(end)}"


def _code_of(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)
    if callable(handler) and not hasattr(function, "__code__"):
        function = getattr(type(handler).__call__, "__func__", type(handler).__call__)
    return getattr(function, "__code__", None)


def place(error: BaseException) -> str:
    """A clause with the last line of own files that an error went through: " (net.py, line 7)", or nothing."""
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename in _files]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


@contextmanager
def _own_draws() -> Iterator[None]:
    """Put back the states of Python's, NumPy's and torch's random numbers, which own code may set or draw from."""
    import torch

    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002  (own code's, perhaps)
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def _default_device() -> Any:
    """Where torch makes tensors; None where that device is not there.

    torch.get_default_device fails on one that is not there, and up to torch 2.7 once it was set to None.
    """
    import torch

    try:
        return torch.empty(0).device
    except Exception:  # torch raises anything
        return None


@contextmanager
def contained() -> Iterator[None]:
    """Run own code, such as a whole training script, without arguments; what it switches in this process is put back.

    That is the working folder, standard output and error, logging, handlers of signals, and torch's modes, default
    number and device.
    Raises EndedError where it would end the program.
    """
    import torch

    folder = Path.cwd()
    named: list[tuple[Any, str]] = [(sys, name) for name in ("argv", "stdout", "stderr")]
    named += [(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")]
    named += [(logging.root.manager, "disable"), (log, "disabled")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in named]
    modes: list[tuple[Callable[[Any], object], Any]] = [
        (torch.set_default_dtype, torch.get_default_dtype()),
        (torch.set_grad_enabled, torch.is_grad_enabled()),
        (torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode()),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (torch.set_num_threads, torch.get_num_threads()),
        (torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled()),
    ]
    device = _default_device()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    sys.argv = sys.argv[:1]
    try:
        yield
    except SystemExit as end:
        raise EndedError(f"{ended(end)}; what is not to run on import goes below if __name__ == '__main__':") from end
    finally:
        _replaced.extend((sys.stdout, sys.stderr))
        for owner, name, value in kept:
            setattr(owner, name, value)
        for put_back, mode in modes:
            put_back(mode)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if _default_device() != device:
            torch.set_default_device(None)
        with suppress(OSError):
            os.chdir(folder)


def settled(name: str) -> str:
    """``name`` as artefacts record it: a file without its folder but with a digest of its content and of
    what it imports from its folder, net.py@3f...:Net.

    Installed packages are not looked at. InputError for a file that cannot be read.
    """
    if ".py:" not in name:
        return name
    source, _, attribute = name.rpartition(":")
    try:
        contents = {path: path.read_bytes() for path in _with_neighbours(Path(source))}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    digest = digests.pop(Path(source))
    if digests:  # else what it has been before neighbours could be imported
        others = sorted(f"{path.relative_to(Path(source).parent).as_posix()} {each}" for path, each in digests.items())
        digest = hashlib.sha256("\n".join([digest, *others]).encode()).hexdigest()
    return f"{Path(source).name}@{digest[:12]}:{attribute}"


def _with_neighbours(source: Path) -> list[Path]:
    """A file and those of its folder, or below, that it imports, anywhere in it, directly or not."""
    found = [source]
    for path in found:  # that grow
        for name in _imports(path.read_bytes()) if path.suffix == ".py" else ():
            bare = name.lstrip(".")
            level = len(name) - len(bare)
            start = path.parents[level - 1] if level else source.parent
            found += [each for each in _files_of(bare, start) if each not in found and source.parent in each.parents]
    return found


@cache
def _imports(content: bytes) -> frozenset[str]:
    """The modules that a file may import: a.b, or ..b beside the folder that it is in."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # said better where it is imported
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {f"{base}{'.' * bool(node.module)}{alias.name}" for alias in node.names} | {base}
    return frozenset(found)


def _files_of(name: str, folder: Path) -> Iterator[Path]:
    """The files that importing a.b from a folder runs: a/__init__.py, a/b.py."""
    folders: list[str] | None = [str(folder)]
    if not name and (folder / "__init__.py").is_file():
        yield folder / "__init__.py"
    for part in filter(None, name.split(".")):
        spec = _in_folders(part, folders or [])
        if spec is None:
            return
        if spec.has_location and spec.origin:
            yield Path(spec.origin)
        folders = [*spec.submodule_search_locations] if spec.submodule_search_locations else None


class _SourceLoader(SourceFileLoader):
    """Writes no bytecode, since the folder is the user's, and has a file's imports find its neighbours."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Leaves the folder, in a dry run too, as it was."""

    def exec_module(self, module: ModuleType) -> None:
        _files.add(self.path)
        folder = module.__name__.partition(".")[0]
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": partial(_import, folder, module.__name__)}
        super().exec_module(module)


def _import(
    package: str,
    importer: str,
    name: str,
    globals: Mapping[str, Any] | None = None,  # noqa: A002
    locals: Mapping[str, Any] | None = None,  # noqa: A002
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> Any:
    """``import`` in own files: what lies in the folder comes first, as where Python runs a script there.

    Each folder is a package of its own, so that two of them may have modules of one name.
    """
    top, own = name.partition(".")[0], f"{package}.{name}"
    if level == 0 and f"{package}.{top}" != importer and _is_neighbour(package, top):
        module = builtins.__import__(own, globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{package}.{top}"]
    return builtins.__import__(name, globals, locals, fromlist, level)


def _is_neighbour(package: str, top: str) -> bool:
    """Whether a folder has a module of that name, or a folder without __init__.py where nothing else is called so."""
    spec = None if top in sys.builtin_module_names else _in_folders(top, sys.modules[package].__path__)
    return spec is not None and (spec.loader is not None or (top not in sys.modules and find_spec(top) is None))


def _in_folders(name: str, folders: Iterable[str]) -> ModuleSpec | None:
    """What importing ``name``, by its last part, finds in some folders; their listings are never remembered."""
    kinds = (_SourceLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
    specs = (FileFinder(folder, *kinds).find_spec(name) for folder in folders)
    return next((spec for spec in specs if spec), None)


class _Finder:
    @staticmethod
    def find_spec(fullname: str, path: Sequence[str] | None = None, _target: ModuleType | None = None) -> Any:
        """Modules of own folders."""
        package, _, below = fullname.partition(".")
        if not (package.startswith(_PACKAGE) and below and path):
            return None
        return _in_folders(fullname, path)


sys.meta_path.insert(0, _Finder)


def _from_file(source: str) -> Any:
    folder = Path(source).absolute().parent
    package = f"{_PACKAGE}{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    for name in [each for each in sys.modules if each.startswith(f"{package}.")]:
        del sys.modules[name]  # its file may have changed
    sys.modules[package] = ModuleType(package)
    sys.modules[package].__path__ = [str(folder)]
    unique = f"{package}.{Path(source).stem.replace('.', '%')}"
    spec = spec_from_file_location(unique, source, loader=_SourceLoader(unique, source))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[unique] = module_from_spec(spec)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
