"""The exception that means "the input is at fault", shown as a single line, and help with misspelt names."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave (a key, a file, a member) is wrong.

    The message is one line: it names the culprit and says what to do. The command line prints it without a
    traceback and exits with code 2; any other exception is a defect of the program and keeps its traceback.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause with the names closest to a misspelt one: "; nearest: a, b", or "; known: ..." when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=4, cutoff=0.5)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 20 else ""


class MissingStageError(InputError):
    """A stage needs what an earlier one has not made yet."""
