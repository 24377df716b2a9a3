"""Progress and log: one bar on a terminal, one line now and then in a log file."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

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


def duration(seconds: float) -> str:
    """Seconds in words, as people say them: "about 40 s", "about 8 min", "about 2.5 h"."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.3g} h"


class Whole:
    """How far the work on all of ``of`` members is, a part of which each counter shows; ``total`` items in all."""

    def __init__(self, total: int, of: int) -> None:
        self.total, self.of, self.done, self.member = total, of, 0, 0
        self.started = self.shown = time.monotonic()

    def next(self) -> "Whole":
        """Go on to the next member."""
        self.member += 1
        return self

    def skip(self, count: int) -> None:
        """Count some items as made before, which take no time."""
        self.total -= count

    def left(self) -> float:
        """The seconds left, at the pace so far."""
        return (time.monotonic() - self.started) * (self.total - self.done) / max(1, self.done)


class Counter:
    """Counts items done and shows them: a tqdm bar, a line every 30 s, or nothing; with those of the ``whole`` work."""

    def __init__(self, title: str, total: int, unit: str, mode: str, whole: Whole | None = None) -> None:
        self.title, self.total, self.unit, self.mode = title, total, unit, mode
        self.whole = whole or Whole(total, 1)
        self.place = f", member {self.whole.member} of {self.whole.of}" if whole else ""
        self.done = 0
        title = f"{title}{self.place}"
        bar = partial(tqdm, total=total, desc=title, unit=unit, unit_scale=unit == "B", dynamic_ncols=True)
        self.bar = bar() if mode == "bar" else None

    def more(self, count: int) -> None:
        """Count some more items as to be done."""
        self.total += count
        self.whole.total += count
        if self.bar:
            self.bar.total = self.total

    def skip(self, count: int) -> None:
        """Count some items as done before, which took no time; less than none: as to be done again."""
        self.done += count
        self.whole.skip(count)
        if self.bar:
            self.bar.update(count)

    def add(self, count: int = 1) -> None:
        """Count some more items as done."""
        self.done += count
        self.whole.done += count
        if self.bar:
            self.bar.update(count)
            if self.place:
                self.bar.set_postfix_str(f"all members: {duration(self.whole.left())} left", refresh=False)
        elif self.mode == "log" and time.monotonic() - self.whole.shown >= SECONDS_BETWEEN_LINES:
            self.whole.shown = time.monotonic()
            left = duration(self.whole.left())
            log.info(f"{self.title}: {self.so_far()}{self.place}, {left} left")

    def so_far(self) -> str:
        """How much is done, in words; bytes (``unit`` B) as megabytes."""
        if self.unit == "B":
            return f"{self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        return f"{self.unit.removesuffix('s')} {self.done} of {self.total}"


@contextmanager
def counter(title: str, total: int, unit: str, mode: str, whole: Whole | None = None) -> Iterator[Counter]:
    """Follow some work.

    Parameters
    ----------
    title, total, unit : what is counted, and how many of what.
    mode : bar, log, off, or auto (a bar where there is a terminal).
    whole : what it is a part of, if it is.
    """
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "log"
    counts = Counter(title, total, unit, mode, whole)
    with logging_redirect_tqdm([log]):
        try:
            yield counts
        finally:
            if counts.bar:
                counts.bar.close()
