"""Progress and log: one bar on a terminal, one line now and then in a log file."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("xconsensus")
MODES = ("auto", "bar", "log", "off")
SECONDS_BETWEEN_LINES = 30.0
_said: set[str] = set()


def set_up_log() -> None:
    """Messages of the program as plain lines on standard error; other libraries' below warnings stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.disabled = False  # Hydra disables the loggers it finds
    log.setLevel(logging.INFO)
    log.propagate = False
    _said.clear()


def say_once(line: str, kind: str = "") -> None:
    """Log a line once a command; of those of a ``kind``, about what many images may have in common, the first."""
    if (kind or line) not in _said:
        _said.add(kind or line)
        log.info(line)


class Counter:
    """Counts items done and shows them: a tqdm bar, a line every 30 s, or nothing."""

    def __init__(self, title: str, total: int, unit: str, mode: str) -> None:
        self.title, self.total, self.unit, self.mode = title, total, unit, mode
        self.done = 0
        self.started = self.shown = time.monotonic()
        self.bar = tqdm(total=total, desc=title, unit=unit, dynamic_ncols=True) if mode == "bar" else None

    def add(self, count: int = 1) -> None:
        """Count some more items as done."""
        self.done += count
        if self.bar:
            self.bar.update(count)
        elif self.mode == "log" and time.monotonic() - self.shown >= SECONDS_BETWEEN_LINES:
            self.shown = time.monotonic()
            rate = self.done / (self.shown - self.started)
            left = (self.total - self.done) / rate
            log.info(f"{self.title}: {self.done}/{self.total} {self.unit}, {rate:.3g}/s, {left:.0f} s left")


@contextmanager
def counter(title: str, total: int, unit: str, mode: str) -> Iterator[Counter]:
    """A counter of ``total`` items for ``mode``: bar, log, off, or auto (a bar where there is a terminal)."""
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "log"
    counts = Counter(title, total, unit, mode)
    with logging_redirect_tqdm([log]):
        try:
            yield counts
        finally:
            if counts.bar:
                counts.bar.close()
