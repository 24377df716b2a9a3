"""Records of work: who is at it since when, how far it is, how it ended. `xconsensus status` and sweeps read them."""

import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from xconsensus.errors import InputError
from xconsensus.store.files import HOST, alive, read_json, write_json

State = Literal["running", "done", "failed", "stopped", "crashed"]


@dataclass
class Record:
    """What stands in a record. ``done`` counts images or epochs, ``seconds`` what they took."""

    state: State = "running"
    host: str = HOST
    pid: int = 0
    started: str = ""
    done: int = 0
    seconds: float = 0.0
    deaths: int = 0  # how often a process ended without a word while it was at this work
    message: str = ""


def read_record(path: Path) -> Record | None:
    """The record, None where there is none; "running" by a process that is dead is "crashed"."""
    with suppress(InputError, TypeError):
        record = Record(**read_json(path))
        if record.state == "running" and not alive(record.host, record.pid):
            record.state, record.deaths = "crashed", record.deaths + 1
        return record
    return None


class Work:
    """One piece of work and its record, which is written only once there is something to do or to say."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.record: Record | None = None
        self._before = read_record(path) if path else None

    @property
    def deaths(self) -> int:
        """How often a process has died over it."""
        return self._before.deaths if self._before else 0

    def begin(self) -> None:
        """Say that this process is at it."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.record = self.record or Record(pid=os.getpid(), started=started, deaths=self.deaths)
        self._clock = time.monotonic()
        self._write()

    def add(self, done: int) -> None:
        """Say that so many more images or epochs are done."""
        assert self.record
        now = time.monotonic()
        self.record.done += done
        self.record.seconds += now - self._clock
        self._clock = now
        self._write()

    def end(self, state: State, message: str = "") -> None:
        """Say how it ended; nothing when nothing was begun and nothing stands to be corrected."""
        if self.record is None and (state == "stopped" or (state == "done" and self._before is None)):
            return
        self.record = self.record or replace(self._before or Record())
        self.record.state, self.record.message = state, message
        if state == "done":
            self.record.deaths = 0
        if self.record != self._before:
            self._write()

    def _write(self) -> None:
        if self.path and self.record:
            with suppress(InputError):  # a full disk stops the work itself, and with a better line
                write_json(self.path, asdict(self.record))
