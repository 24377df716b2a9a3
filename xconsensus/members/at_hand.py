"""Whether a member's weights lie on this machine, or would have to be downloaded."""

import os
from pathlib import Path

from xconsensus.errors import InputError
from xconsensus.members import timm_torchvision
from xconsensus.members.member import Member

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # of huggingface_hub: it downloads nothing


def caches() -> dict[str, Path]:
    """Where the libraries keep what they download: the Hugging Face hub's cache, and torch's."""
    from huggingface_hub import constants
    from torch.hub import get_dir

    return {"Hugging Face": Path(constants.HF_HUB_CACHE), "torch": Path(get_dir()) / "checkpoints"}


def offline() -> list[str]:
    """The flags set in the environment that forbid downloads."""
    return [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]


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
    return timm_torchvision.how_to_get(member.name, member.library, member.model, member.pretrained)


def _cached(member: Member) -> bool:
    """Whether the library finds the pretrained weights in its own cache."""
    hub, url, file = timm_torchvision.source_of(member.name, member.library, member.model, member.pretrained)
    if hub:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = hub.partition("@")
        names = dict.fromkeys(["model.safetensors", file or "pytorch_model.bin", "pytorch_model.bin"])
        found = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
        return any(isinstance(each, str) for each in found)
    return (caches()["torch"] / os.path.basename(url)).is_file()
