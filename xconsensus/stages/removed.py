"""Keys that are no more: their old neutral value is taken, any other one stops."""

from typing import Any

from xconsensus.errors import InputError
from xconsensus.progress import log

# key: the value that meant to do without it, and what to do instead. conf/base.yaml has each as null, or the command
# line would refuse it as unknown.
REMOVED: dict[str, tuple[object, str]] = {
    "explain.compile": (
        "never",
        "networks are not compiled any more; explain.precision=auto makes them faster",
    ),
}


def take_removed(values: dict[str, Any]) -> None:
    """Take the removed keys out of the config's ``values``, in place: a line for each that is given.

    Raises InputError, with what replaces the key, where it has another value than that which meant to do without it.
    """
    for key, (neutral, instead) in REMOVED.items():
        group, _, name = key.rpartition(".")
        given = values[group].pop(name, None)
        if given not in (None, neutral):
            raise InputError(f"{key}={given} is no more: {instead}")
        if given is not None:
            log.info(f"{key}={given} is no more and changes nothing: it can be left out")
