"""Code of the user's own: a class or function in a Python file or an installed package, named in the config and run."""

import hashlib
import importlib
import importlib.util
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from traceback import extract_tb, walk_tb
from typing import Any

import numpy as np

from xconsensus.errors import InputError
from xconsensus.progress import log

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
    device = torch.get_default_device()
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
        if torch.get_default_device() != device:
            torch.set_default_device(None)
        with suppress(OSError):
            os.chdir(folder)


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
    _files.add(source)
    loader.exec_module(module)
    return module
