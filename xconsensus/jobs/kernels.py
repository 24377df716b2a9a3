"""Which GPUs this torch has kernels for."""

import re
import warnings

import torch

from xconsensus.errors import InputError

ADVICE = "docs/install.md"
# compute capability from which on, name, and the torch that PyPI has kernels in; the index is PyTorch's for CUDA 12.6
_OLD = (((7, 0), "Volta", "2.11"), ((5, 0), "Maxwell or Pascal", "2.8"))
_INDEX = "a torch<2.15 of PyTorch's index for CUDA 12.6"


def check_kernels(device: torch.device) -> None:
    """InputError for a GPU of CUDA that this torch has no kernels for, with a torch that has; others pass."""
    if device.type != "cuda" or torch.version.hip:
        return
    with warnings.catch_warnings():  # torch says the same over many lines
        warnings.simplefilter("ignore")
        capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
        known = torch.cuda.get_arch_list()
    if any(_runs(kernels, capability) for kernels in known):
        return
    found = ", ".join(sorted({_dotted(*_version(kernels)) for kernels in known}, key=float)) or "none"
    raise InputError(
        f"device={device}: torch {torch.__version__} has no kernels for {name}, of compute capability"
        f" {_dotted(*capability)} (it has {found}): install {_which(capability)}, see {ADVICE}, or set device=cpu"
    )


def _which(capability: tuple[int, int]) -> str:
    """The torch that has kernels for a GPU."""
    for since, generation, below in _OLD:
        if since <= capability < (7, 5):
            return f"torch<{below} from PyPI, or {_INDEX}, which have them for {generation}"
    return "a newer torch" if capability >= (7, 5) else "nothing newer than torch 1.10, which this program cannot use"


def _runs(kernels: str, capability: tuple[int, int]) -> bool:
    """Whether what torch was compiled for, as sm_86, sm_90a or compute_120, runs on a GPU.

    Machine code (sm) does on GPUs of its generation that are as new, with the suffix a on that very one; PTX (compute)
    on all that are as new.
    """
    kind, _, digits = kernels.partition("_")
    version = _version(kernels)
    if digits.endswith("a"):
        return version == capability
    return version <= capability and (kind == "compute" or version[0] == capability[0])


def _version(kernels: str) -> tuple[int, int]:
    """(8, 6) of sm_86."""
    digits = "".join(re.findall(r"\d", kernels))
    return int(digits[:-1] or 0), int(digits[-1:] or 0)


def _dotted(major: int, minor: int) -> str:
    return f"{major}.{minor}"
