"""Provenance: the settings that shaped an artefact's numbers, compared key by key, and the versions that made it."""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xconsensus import __version__
from xconsensus.errors import SettingsError

Settings = Mapping[str, Any]
_DIGEST = re.compile("[0-9a-f]{16,}")


def versions() -> dict[str, str]:
    """Versions that stand in every header; they inform and are not compared."""
    return {
        "xconsensus": __version__,
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
    }


def digest(settings: Settings) -> str:
    """A short fingerprint of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def difference(made: Settings, wanted: Settings) -> str | None:
    """The first setting that differs, as "key is A there, B now", where digests differ by the key alone; None when they
    are equal.
    """
    there, now = flat(made), flat(wanted)
    for key in ("library", "member.library"):
        one, other = there.get(key), now.get(key)
        if {one, other} in ({"paddle", "timm"}, {"paddle", "torchvision"}):
            weights = "authors" if one == "paddle" else "libraries"
            return f"{key} is {one} there, {other} now: committee.weights={weights} takes what it was made with"
    for key in [*now, *there]:
        one, other = there.get(key, "absent"), now.get(key, "absent")
        if one != other:
            digests = all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (one, other))
            return f"{key} is another now" if digests else f"{key} is {one} there, {other} now"
    return None


def check_settings(path: Path, made: Settings, wanted: Settings) -> None:
    """SettingsError naming the first setting in which an artefact on disk differs from the present config."""
    if found := difference(made, as_json(wanted)):
        raise SettingsError(path, found)


def as_json(settings: Settings) -> dict[str, Any]:
    """Settings as they come back from a file: tuples are lists."""
    content: dict[str, Any] = json.loads(json.dumps(settings))
    return content


def flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, "outer.inner" -> value."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
