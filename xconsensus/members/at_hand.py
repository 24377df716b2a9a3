"""Whether a member's weights lie on this machine, or would have to be downloaded."""

import os
import socket
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

from xconsensus.errors import InputError
from xconsensus.members import upstream
from xconsensus.members.member import Member

SECONDS = 3.0  # in which the Hugging Face hub is to answer
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # of huggingface_hub: it downloads nothing


def caches() -> dict[str, Path]:
    """Where the libraries keep what they download: the Hugging Face hub's cache, and torch's."""
    from huggingface_hub import constants
    from torch.hub import get_dir

    return {"Hugging Face": Path(constants.HF_HUB_CACHE), "torch": Path(get_dir()) / "checkpoints"}


def offline() -> list[str]:
    """The flags set in the environment that forbid downloads."""
    return [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]


@cache
def look_for_hub() -> None:
    """Let huggingface_hub take what is in its cache alone, in this process, where its host cannot be reached: it would
    try for most of a minute, for each member. What a proxy reaches is left to it.
    """
    from huggingface_hub import constants

    at = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies().keys() & {at.scheme, "all"}:
        return
    reached = []

    def reach() -> None:
        try:
            socket.create_connection((at.hostname, at.port or (80 if at.scheme == "http" else 443)), SECONDS).close()
            reached.append(True)
        except OSError:
            pass

    attempt = Thread(target=reach, daemon=True)  # names are looked up without a limit
    attempt.start()
    attempt.join(2 * SECONDS)
    if not reached:
        constants.HF_HUB_OFFLINE = True


def lacking(member: Member) -> str:
    """What to do about the weights that a member starts from, where they are not here; empty where they are, or it
    needs none.

    Raises InputError naming the member for a weights tag that does not exist.
    """
    if member.weights or member.pretrained_file:
        try:
            member.weights_file()
        except InputError as error:
            return str(error)
        return ""
    if not member.pretrained or _cached(member):
        return ""
    return upstream.how_to_get(member.name, member.library, member.model, member.pretrained)


def _cached(member: Member) -> bool:
    """Whether the library finds the pretrained weights in its own cache."""
    hub, url, file = upstream.source_of(member.name, member.library, member.model, member.pretrained)
    if hub:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = hub.partition("@")
        names = dict.fromkeys(["model.safetensors", file or "pytorch_model.bin", "pytorch_model.bin"])
        found = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
        return any(isinstance(each, str) for each in found)
    return (caches()["torch"] / os.path.basename(url)).is_file()


def fetched(member: Member) -> Path:
    """The file of the authors' weights; InputError naming the member where it is not here."""
    raise InputError(
        f"member {member.name}: {upstream.how_to_get(member.name, member.library, member.model, member.pretrained)}"
    )
