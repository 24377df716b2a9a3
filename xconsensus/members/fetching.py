"""Files of the internet: fetched where they are not here, several at a time, and known again by their SHA-256."""

import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

from xconsensus.errors import InputError
from xconsensus.members.member import file_digest
from xconsensus.members.transfer import Download, Transfer, beside, write
from xconsensus.progress import Counter, counter, log

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # of huggingface_hub: it downloads nothing


def offline() -> list[str]:
    """The flags set in the environment that forbid downloads."""
    return [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]


def cache_dir() -> Path:
    """The folder of what is downloaded here: $XCONSENSUS_CACHE, else xconsensus/ in $XDG_CACHE_HOME or ~/.cache."""
    own, base = os.environ.get("XCONSENSUS_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser().absolute()
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "xconsensus"
    except RuntimeError as error:
        raise InputError("no home folder is known: set XCONSENSUS_CACHE to a folder for what is downloaded") from error


def fetch(download: Download, mode: str = "auto") -> None:
    """Make the file be there: download it, or `check` the one that is; ``mode`` is progress's.

    Raises InputError that says what to do, and where to put the file by hand.
    """
    if download.path.exists():
        check(download.path, download.what)
    else:
        with counter(download.what, download.least, "B", mode) as counts:
            _fetch(download, counts, Event())


def fetch_all(downloads: Sequence[Download], at_once: int = 4, mode: str = "auto") -> list[str]:
    """`fetch` of several, ``at_once`` at a time; a line for each that does not come. ``mode`` is progress's."""
    every = {download.path: download for download in downloads}  # members may share a file
    expected = sum(download.least for download in every.values() if not download.path.exists())
    with counter("download", expected, "B", mode if expected else "off") as counts:
        return several([partial(_fetch, each, counts) for each in every.values()], at_once)


def several(tasks: Sequence[Callable[[Event], None]], at_once: int = 4) -> list[str]:
    """Run the tasks in threads; the lines of their InputErrors, in order. Each is told to stop by an event.

    Ctrl-C waits for no task. Any other exception of one is raised once all have ended.
    """
    todo, stop, failed = deque(enumerate(tasks)), Event(), dict[int, Exception]()

    def work() -> None:
        while not stop.is_set():
            try:
                number, task = todo.popleft()
            except IndexError:
                return
            try:
                task(stop)
            except Exception as error:
                failed[number] = error

    threads = [Thread(target=work, daemon=True) for _ in range(min(at_once, len(tasks)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    for error in failed.values():
        if not isinstance(error, InputError):
            raise error
    return [str(failed[number]) for number in sorted(failed)]


def check(path: Path, what: str) -> None:
    """Keep the file's SHA-256 in FILE.sha256 (as sha256sum has it) at first use; InputError where it is another now.

    A file of the same size and time is not read again. In a folder that cannot be written nothing is kept.
    """
    note = beside(path, ".sha256")
    try:
        stat, lines = path.stat(), note.read_text().splitlines() if note.exists() else []
        stamp = f"# {stat.st_size} bytes, modified {stat.st_mtime_ns}"
        if stamp in lines:
            return
        digest = file_digest(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: {path} or {note.name} cannot be read ({error})") from error
    if lines and lines[0].split(" ")[0] != digest:
        raise InputError(
            f"{what}: {path} is not the file that it was (SHA-256 {digest[:8]}..., was {lines[0][:8]}...): remove it"
            f" and {note.name} and fetch it again, or {note.name} alone if the file is right"
        )
    with suppress(OSError):
        write(note, f"{digest}  {path.name}\n{stamp}\n")


def _fetch(download: Download, counts: Counter, stop: Event) -> None:
    path = download.path
    try:
        if not path.exists():
            if flags := offline():
                raise download.refused(f"{' and '.join(flags)} forbid{'s' * (len(flags) == 1)} it")
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path) as file:
                if file:  # else another process has fetched it meanwhile
                    Transfer(download, file, counts, stop).run()
                    os.fsync(file.fileno())
                    beside(path, ".part").replace(path)
                    beside(path, ".part.json").unlink(missing_ok=True)
        check(path, download.what)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        how = "free some and go on by the same command" if full else "XCONSENSUS_CACHE=FOLDER names another folder"
        raise InputError(f"{download.what}: {path} cannot be written ({error.strerror or error}): {how}") from error


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO | None]:
    """FILE.part, held against other processes; None where ``path`` is there once the lock is this process's."""
    part = beside(path, ".part")
    while True:
        with part.open("a+b") as file:
            _lock(file, path)
            try:
                if path.exists() or _is_at(part, file):  # else it was renamed meanwhile
                    return (yield None if path.exists() else file)
            finally:
                if not os.fstat(file.fileno()).st_size and _is_at(part, file):
                    part.unlink()
                    beside(path, ".part.json").unlink(missing_ok=True)


def _is_at(path: Path, file: BinaryIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info(f"another run is fetching {path}: waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        pass
