"""Logs of work: who is at it since when, how far it is, how it ended. `xconsensus status` and sweeps read them."""

import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from xconsensus.errors import InputError
from xconsensus.store.files import read_json, write_json
from xconsensus.store.processes import HOST, PLACE, alive, started

State = Literal["running", "done", "failed", "stopped", "crashed", "unknown"]


@dataclass
class Entry:
    """What stands in a log. ``done`` counts images or epochs, ``seconds`` what they took."""

    state: State = "running"
    host: str = HOST
    pid: int = 0
    place: str = ""
    start: int = 0
    started: str = ""
    done: int = 0
    seconds: float = 0.0
    deaths: int = 0  # how often a process ended without a word while it was at this work
    message: str = ""


def read_entry(path: Path) -> Entry | None:
    """What stands in a log, None where there is none; "running" by a process that is dead is "crashed", by
    one of which nobody can tell "unknown".
    """
    with suppress(InputError, TypeError, OSError):
        entry = Entry(**read_json(path))
        if entry.state == "running":
            lives = alive(entry.host, entry.pid, entry.place, entry.start, path.stat().st_mtime)
            if lives is None:
                entry.state = "unknown"
            elif not lives:
                entry.state, entry.deaths = "crashed", entry.deaths + 1
        return entry
    return None


class Worklog:
    """One piece of work and its log, which is written only once there is something to do or to say."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.entry: Entry | None = None
        self._before = read_entry(path) if path else None

    @property
    def deaths(self) -> int:
        """How often a process has died over it."""
        return self._before.deaths if self._before else 0

    def begin(self) -> None:
        """Say that this process is at it."""
        self.entry = self.entry or Entry(
            pid=os.getpid(),
            place=PLACE,
            start=started(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            deaths=self.deaths,
        )
        self._clock = time.monotonic()
        self._write()

    def add(self, done: int) -> None:
        """Say that so many more images or epochs are done."""
        assert self.entry
        now = time.monotonic()
        self.entry.done += done
        self.entry.seconds += now - self._clock
        self._clock = now
        self._write()

    def end(self, state: State, message: str = "") -> None:
        """Say how it ended; nothing when nothing was begun and nothing stands to be corrected."""
        if self.entry is None and (state == "stopped" or (state == "done" and self._before is None)):
            return
        self.entry = self.entry or replace(self._before or Entry())
        self.entry.state, self.entry.message = state, message
        if state == "done":
            self.entry.deaths = 0
        if self.entry != self._before:
            self._write()

    def _write(self) -> None:
        if self.path and self.entry:
            with suppress(InputError):  # a full disk stops the work itself, and with a better line
                write_json(self.path, asdict(self.entry))
