"""The process that a stage runs in: its threads and memory, the device, and what killed processes left behind."""

from pathlib import Path

import torch

from xconsensus.errors import InputError
from xconsensus.jobs.job import job_number, job_threads
from xconsensus.jobs.kernels import check_kernels
from xconsensus.jobs.memory import keep_freed_memory
from xconsensus.store.files import remove_leftovers


def set_up(threads: int | None, shares: int, leftovers: Path | None) -> None:
    """Set the CPU's threads, how memory is kept, and that float32 is float32; remove what killed processes left below
    ``leftovers``.

    Without ``threads``, jobs that share the work in ``shares`` parts on this machine share its cores.
    """
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions on a GPU round what they multiply to 10 bits
    if (own := threads or job_threads(shares)) is not None:
        torch.set_num_threads(own)
    if leftovers is not None:
        remove_leftovers(leftovers)


def device_of(name: str) -> torch.device:
    """The device of a name, or with auto the GPU that is this job's, else the CPU.

    InputError for one that is not here or not supported, and a GPU that torch has no kernels for.
    """
    try:
        named = f"cuda:{name}" if name.isdigit() else name
        device = own_device(job_number()) if name == "auto" else torch.device(named)
        if device.type not in ("cpu", "cuda"):
            raise InputError(f"device={name} is not supported, only cpu and cuda are: set device=cpu{_why(device)}")
        check_kernels(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here; try device=auto or device=cpu") from error
    return device


def _why(device: torch.device) -> str:
    return " (Apple's GPUs have no float64, in which sums are taken)" if device.type == "mps" else ""


def own_device(job: int | None) -> torch.device:
    """The GPU, of several each ``job`` of a sweep its own in turn; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda" if job is None else f"cuda:{job % torch.cuda.device_count()}")


def batch_size_of(given: int | str, device: torch.device, size: int) -> int:
    """Perturbed images of ``size`` pixels a side a pass at most; InputError for what is no such number."""
    if given == "auto":
        # On a CPU about a million pixels: with more of them, what layers hand on no longer stays in its cache.
        return 256 if device.type != "cpu" else min(64, max(1, 2**20 // size**2))
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InputError(f"explain.batch_size={given} is neither auto nor a whole number of at least 1")
    return given
