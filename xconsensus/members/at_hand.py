"""Whether a member's weights lie on this machine, or would have to be downloaded."""

import os
import re
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from xconsensus.errors import InputError
from xconsensus.members import upstream
from xconsensus.members.catalogue import entries
from xconsensus.members.fetching import cache_dir, fetch, offline
from xconsensus.members.member import Member
from xconsensus.members.paddle import table
from xconsensus.members.transfer import Download

SECONDS = 3.0  # in which the Hugging Face hub is to answer


def caches() -> dict[str, Path]:
    """Where the libraries keep what they download: the Hugging Face hub's cache, and torch's."""
    from huggingface_hub import constants
    from torch.hub import get_dir

    return {"Hugging Face": Path(constants.HF_HUB_CACHE), "torch": Path(get_dir()) / "checkpoints"}


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


def download(member: Member) -> Download | None:
    """Where the authors' own weights of the member are fetched from, and to; None for other weights."""
    if member.library != "paddle" or not fetchable(member):
        return None
    entry = table.entry(member.model, member.name)
    path = cache_dir() / "authors" / os.path.basename(urlsplit(entry.url).path)
    least = 4 * entry.numbers  # by pickle protocol 2 bytes of 128 and more take two
    return Download(f"member {member.name}", entry.url, path, 2 * least + 2**20, least)


def fetched(member: Member) -> Path:
    """The file of the authors' weights of a member of library paddle, downloaded unless it is here.

    Raises InputError naming the member, the file, its address and where to put it by hand, where it does not come.
    """
    own = download(member)
    assert own, member
    fetch(own)
    return own.path


def fetchable(member: Member) -> bool:
    """Whether the member's weights are published ones, which can be downloaded."""
    return bool(member.pretrained and not (member.weights or member.pretrained_file))


def lacking(member: Member) -> str:
    """What to do about the weights that a member starts from, where they are not here; empty where they are, or it
    needs none.

    Raises InputError naming the member for a weights tag that does not exist.
    """
    try:
        if not fetchable(member) or file_of(member):
            member.weights_file()
            return ""
    except InputError as error:
        return str(error)
    if own := download(member):
        return own.by_hand()
    return upstream.how_to_get(member.name, member.library, member.model, member.pretrained)


def file_of(member: Member) -> Path | None:
    """The file on this machine that the member's weights are read from; None where there is none, or it needs none.

    Raises InputError naming the member whose own file is not there.
    """
    if not fetchable(member):
        return member.weights_file()
    if own := download(member):
        return own.path if own.path.is_file() else None
    hub, url, file = upstream.source_of(member.name, member.library, member.model, member.pretrained)
    if hub:
        from huggingface_hub import try_to_load_from_cache

        repository, revision = _of_hub(hub)
        found = (try_to_load_from_cache(repository, name, revision=revision) for name in _names(file))
        return next((Path(each) for each in found if isinstance(each, str)), None)
    path = caches()["torch"] / os.path.basename(url)
    return path if path.is_file() else None


def fetch_by_library(member: Member) -> None:
    """Download a member's weights of timm or torchvision into these libraries' caches, as they do when first used.

    Raises InputError naming the member, with the file to fetch and where to put it.
    """
    hub, url, file = upstream.source_of(member.name, member.library, member.model, member.pretrained)
    try:
        if flags := offline():
            raise InputError(f"{' and '.join(flags)} forbid{'s' * (len(flags) == 1)} downloads")
        if hub:
            _from_hub(hub, file)
        else:
            from torch.hub import download_url_to_file

            path = caches()["torch"] / os.path.basename(url)
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = re.search(r"-([a-f0-9]{8,})\.", path.name)  # of its SHA-256
            download_url_to_file(url, str(path), prefix and prefix[1], progress=False)
    except Exception as error:  # downloads raise nearly anything
        advice = upstream.how_to_get(member.name, member.library, member.model, member.pretrained)
        raise InputError(f"member {member.name}: {advice} ({' '.join(str(error).split())[:300]})") from error


def _from_hub(hub: str, file: str) -> None:
    """Into the hub's cache, the first file that the repository has of those that timm takes."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    look_for_hub()
    repository, revision = _of_hub(hub)
    *first, last = _names(file)
    for name in first:
        try:
            hf_hub_download(repository, name, revision=revision)
            return
        except LocalEntryNotFoundError:  # the hub is not reached
            raise
        except EntryNotFoundError:
            pass
    hf_hub_download(repository, last, revision=revision)


def _of_hub(hub: str) -> tuple[str, str | None]:
    """Repository and revision."""
    repository, _, revision = hub.partition("@")
    return repository, revision or None


def _names(file: str) -> list[str]:
    """The files of a repository that timm takes weights from, in its order."""
    return [*dict.fromkeys(["model.safetensors", file or "pytorch_model.bin", "pytorch_model.bin"])]


def cost_of(members: Sequence[Member]) -> str:
    """How many files and bytes the members' downloads are, as far as that is known before."""
    sizes = {same_file(member): _size(member) for member in members}
    unknown = sum(not size for size in sizes.values())
    also = f", besides {unknown} of unknown size" * bool(unknown)
    return f"{len(sizes)} files, about {sum(sizes.values()) / 1e9:.2f} GB{also}"


def _size(member: Member) -> int:
    """Bytes of the member's download, as far as that is known before: 4 a parameter; else 0."""
    if own := download(member):
        return own.least
    if member.library == "torchvision":
        weights = upstream.torchvision_weights(member.name, member.model, member.pretrained)
        return 4 * int(weights.meta["num_params"])
    known = {(entry.library, entry.model): entry.parameters for entry in entries().values()}
    return 4 * known.get((member.library, member.model), 0)


def same_file(member: Member) -> tuple[Any, ...]:
    """What members of the same file share."""
    return member.library, member.model, member.pretrained
