"""Standard streams as jobs find them: closed ones, and terminals that cannot show every letter."""

import io
import os
import sys


def make_usable() -> None:
    """Let closed streams (``2>&-``) take what is written and drop it, and escape letters that one cannot show."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else the next file to be opened becomes standard error, which C libraries write to
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
