"""What this machine offers, found without torch where torch is not asked about: lines of `xconsensus doctor`."""

import fcntl
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from xconsensus import __version__
from xconsensus.errors import InputError
from xconsensus.jobs.launchers import EXTRAS

OK, NOTE, MISSING, WRONG = "ok", "note", "missing", "wrong"
GIB = 2**30
_ABSENT = "not installed"
_NVIDIA = Path("/proc/driver/nvidia/version")
_CGROUP = Path("/sys/fs/cgroup")
# exits with 1 where another process holds the lock, as it should, and with 0 where it gets it all the same


@dataclass(frozen=True)
class Line:
    """What was looked at, its state (ok; note: works, and could be better; missing; wrong), and what to do."""

    what: str
    state: str
    found: str
    advice: str = ""


def look(what: str, check: Callable[[], tuple[str, ...]]) -> Line:
    """The line of a check, which gives state, finding and advice; what it raises is wrong, or missing as files are."""
    try:
        return Line(what, *check())
    except InputError as error:
        state = MISSING if "no such f" in str(error).lower() else WRONG  # no such file, no such folder
        return Line(what, state, " ".join(str(error).split()))
    except Exception as error:  # of broken installations anything
        reason = " ".join(str(error).split())[:300]
        return Line(what, WRONG, f"{type(error).__name__}: {reason}", "install again by docs/install.md")


def version_lines() -> list[str]:
    """What ``xconsensus --version`` prints: versions, and the device that device=auto takes."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "timm"))
    return [f"xconsensus {__version__}", versions, f"device: {_auto()}"]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT


def _auto() -> str:
    line = look("device", lambda: device("auto"))
    return line.found if line.state in (OK, NOTE) else f"none ({line.found})"


def platform_of() -> tuple[str, ...]:
    """Platform and Python."""
    return OK, f"{os.uname().sysname} {platform.machine()}, Python {platform.python_version()}"


def packages() -> tuple[str, ...]:
    """Whether all that is needed is installed, within the bounds that were tried, and compiled code loads."""
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    import timm  # noqa: F401
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in importlib.metadata.requires("xconsensus") or []]
    due = {each: _version(each.name) for each in needed if not each.marker or each.marker.evaluate({"extra": ""})}
    bad = {e: v for e, v in due.items() if v == _ABSENT or not e.specifier.contains(v, prereleases=True)}
    if bad:
        found = "; ".join(f"{each.name} is {version}" for each, version in bad.items())
        return WRONG, found, "pip install " + " ".join(f"'{each}'" for each in bad)
    return OK, ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "timm", "numpy"))


def device(name: str) -> tuple[str, ...]:
    """The device of a name, which adds and multiplies there."""
    import torch

    from xconsensus.jobs.process import device_of

    found = device_of(name)
    ones = torch.ones(64, 64, device=found)
    if not torch.equal((ones @ ones).cpu(), torch.full((64, 64), 64.0)):
        return WRONG, f"{found} multiplies wrongly", "set device=cpu, or install another torch by docs/install.md"
    if found.type == "cuda":
        properties = torch.cuda.get_device_properties(found)
        memory = f"{properties.total_memory / GIB:.0f} GiB"
        return OK, f"{found}, {properties.name}, compute capability {properties.major}.{properties.minor}, {memory}"
    if name == "auto" and _NVIDIA.exists():
        why = "its driver is too old for" if torch.version.cuda else "has no CUDA in"
        return NOTE, f"cpu, though a GPU of NVIDIA is here: {why} torch {torch.__version__}", "see docs/install.md"
    return OK, f"cpu, {cores():g} cores"


def cores() -> float:
    """Cores that this process may use: of the machine, its affinity, and a container's share."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _of_cgroup("cpu.max").partition(" ")
    return min(own, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else own


def _of_cgroup(name: str) -> str:
    """What the kernel allows the container, empty where it says nothing."""
    try:
        return (_CGROUP / name).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def threads(given: int | None) -> tuple[str, ...]:
    """Whether as many threads compute as there are cores for."""
    import torch

    used, there = given or torch.get_num_threads(), cores()
    found = f"{used} threads on {there:g} cores"
    return (OK, found) if used <= max(1, there) else (NOTE, found, f"set threads={max(1, int(there))}")


def memory(kept_gib: float) -> tuple[str, ...]:
    """Free memory, of the machine or what its container may have, beside what finetune keeps of images."""
    free = _free_memory()
    found = f"{free / GIB:.1f} GiB free"
    if free < (kept_gib + 2) * GIB:
        less = max(0, free / GIB / 2 - 1)
        return NOTE, found, f"lower finetune.cache_gib={kept_gib:g} to {less:.1f}, and batch sizes where it ends"
    return OK, found


def _free_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    free = kib["MemAvailable"] * 1024 if "MemAvailable" in kib else _all_memory()
    allowed, used = _of_cgroup("memory.max"), _of_cgroup("memory.current")
    return min(free, max(0, int(allowed) - int(used))) if allowed.isdigit() and used.isdigit() else free


def _all_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())


def disk(folder: Path) -> tuple[str, ...]:
    """Whether files can be made below the output folder, and for how many there is room."""
    there = existing(folder)
    try:
        with TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        return WRONG, f"{there}: nothing can be written ({error.strerror})", "set output_dir=FOLDER to one of yours"
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GiB free for output_dir={folder}"
    enough = free >= GIB
    return (OK, found) if enough else (WRONG, found, "free some, or set output_dir=FOLDER; dry_run=true says how much")


def locks(folder: Path) -> tuple[str, ...]:
    """Whether a lock on the output folder's file system keeps another process out."""
    there = existing(folder)
    kind = _file_system(there)
    how = "runs in this folder do each other's work again: mount it with locks (NFS: without nolock), or set output_dir"
    with TemporaryFile(dir=there) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return NOTE, f"none on {kind} ({error.strerror})", how
        free = _another_gets(file.fileno())
    return (NOTE, f"hold nobody out on {kind}", how) if free else (OK, f"work on {kind}")


def _another_gets(file: int) -> bool:
    """Whether another process gets a lock on an open file that this one has locked."""
    if (child := os.fork()) == 0:  # it looks and ends, whatever threads were about to do
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder lies on, as the kernel has it."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "this file system"
    real = folder.resolve()
    return max(((len(at), kind) for at, kind in mounts if real.is_relative_to(at)), default=(0, "this file system"))[1]


def fonts() -> tuple[str, ...]:
    """Whether matplotlib finds the font of the figures."""
    from matplotlib import font_manager

    try:
        return OK, font_manager.findfont("DejaVu Sans", fallback_to_default=False)
    except ValueError:
        return WRONG, "matplotlib does not find DejaVu Sans, its own font", "pip install --force-reinstall matplotlib"


def launchers() -> tuple[str, ...]:
    """Which of Hydra's launchers are installed, and what they start."""
    absent = [name for name in EXTRAS if _version(f"hydra-{name}-launcher") == _ABSENT]
    found = ", ".join(name for name in EXTRAS if name not in absent) or "none"
    notes = [f"pip install 'xconsensus[{EXTRAS[name]}]' for {name}" for name in absent]
    if "submitit" not in absent and not shutil.which("sbatch"):
        notes.append("submitit_slurm needs a machine with sbatch, which is not here")
    return (NOTE, f"installed: {found}", "; ".join(notes)) if notes else (OK, f"installed: {found}")
