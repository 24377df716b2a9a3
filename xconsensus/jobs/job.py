"""Jobs of a sweep: what Hydra's launchers carry to other processes and machines."""

import importlib
import os
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from xconsensus.errors import InputError
from xconsensus.jobs.explainers import for_each_explainer
from xconsensus.jobs.signals import stopping
from xconsensus.jobs.streams import make_usable
from xconsensus.jobs.worklog import Worklog, read_entry
from xconsensus.keys.words import faults_told
from xconsensus.own_code import ended
from xconsensus.progress import log, set_up_log

SHARED = ("finetune", "explain")  # stages that `shards` jobs can share
SEVERAL = ("run", "plot", "locate", "status")  # stages that go through several explainers
OUTCOME = "outcome.json"  # in each job's folder: how it ended
failed: list[str] | None = None  # what was wrong in the jobs of this process; None in one that a launcher started
as_json = False  # whether the stage is asked for JSON, by --json
sweep: Path | None = None  # the folder of the sweep that this process started


@dataclass(frozen=True)
class Job:
    """A stage as a function of its config; launchers pickle it by name, so that any process can import it.

    Bad input is one line of the log. Another process raises it too: so it reaches the one that started the sweep.
    """

    stage: str

    def __call__(self, config: DictConfig) -> None:
        make_usable()
        set_up_log()
        os.environ["MPLBACKEND"] = "Agg"  # a notebook's own cannot be imported everywhere
        os.chdir(HydraConfig.get().runtime.cwd)  # relative folders mean the same in every job
        if (number := job_number()) is not None:
            log.info(f"job {number}: {HydraConfig.get().job.override_dirname.replace('++', '') or 'defaults'}")
        worklog = Worklog(None if number is None else Path(HydraConfig.get().sweep.dir, str(number), OUTCOME))
        worklog.begin()
        with stopping() if failed is None else nullcontext():
            self._run(config, worklog)

    def _run(self, config: DictConfig, worklog: Worklog) -> None:
        try:
            with faults_told():
                self._work(config)
            worklog.end("done")
        except InputError as error:
            worklog.end("failed", str(error))
            log.error(f"error: {error}")
            if failed is None:
                raise
            failed.append(str(error))  # kept from Hydra, which would print a traceback
        except BrokenPipeError:  # the reader of standard output has read enough: Hydra would print a line
            worklog.end("stopped")
            sys.exit(141)
        except BaseException as error:
            worklog.end("failed", type(error).__name__)
            raise

    def _work(self, config: DictConfig) -> None:
        if config.shards != 1 and self.stage not in SHARED:
            raise InputError(f"{self.stage} is not shared by jobs: leave out shard and shards")
        configs = for_each_explainer(config, self.stage in SEVERAL)
        stage = importlib.import_module(f"xconsensus.stages.{self.stage}")
        try:
            code = stage.run(configs if self.stage in SEVERAL else configs[0])
        except SystemExit as end:
            raise InputError(f"own code of the config fails: {ended(end)}") from end
        except UnicodeEncodeError as error:
            if sys.getfilesystemencoding() == "utf-8":
                raise
            raise InputError(
                f"{error.object!a}: the encoding {error.encoding} of this locale has no such letters: set PYTHONUTF8=1"
            ) from error
        if code:  # what status answers
            sys.exit(code)


class Sweep(Callback):
    """Called in the process that starts a sweep: forgets how the jobs of an earlier one ended."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global sweep
        sweep = Path(config.hydra.sweep.dir)
        for path in sweep.glob(f"*/{OUTCOME}"):
            path.unlink()


def unfinished() -> list[str]:
    """A line for each job of this process's sweep that failed, or ended without a word.

    Launchers tell too little: Hydra keeps a job's exception in what the job returns, so that SLURM reports COMPLETED
    for a failed job and the first failure hides all others (its issues 1928 and 2284); a job that is killed says
    nothing at all. So each job writes down how it ends.
    """
    outcomes = {int(path.parent.name): read_entry(path) for path in sweep.glob(f"*/{OUTCOME}")} if sweep else {}
    return [
        f"job {number}: {entry.message if entry.state == 'failed' else 'ended without a word, killed perhaps'}"
        for number, entry in sorted(outcomes.items())
        if entry and entry.state != "done"
    ]


def job_number() -> int | None:
    """The number of this job of a sweep, from 0; None outside of sweeps."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return int(HydraConfig.get().job.num)
    return None


def job_threads(shards: int) -> int | None:
    """CPU threads of a job whose launcher starts all ``shards`` jobs at once on this machine; None leaves it to torch.

    Other launchers set OMP_NUM_THREADS to a job's part of the cores.
    """
    if job_number() is None or not str(HydraConfig.get().launcher["_target_"]).endswith(".LocalLauncher"):
        return None
    return max(1, _cores() // shards)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


# Each preset in conf/hydra/launcher has the name of the plugin's own options, on purpose: these complete it.
warnings.filterwarnings("ignore", r"(?s).*'hydra/launcher/.*ConfigStore schema with the same name")

# of conf/: a folder that is the same whatever folder a job starts in; what a launcher's preset asks of this machine
OmegaConf.register_new_resolver("under", lambda *parts: os.path.join(*map(os.path.expanduser, parts)), replace=True)
OmegaConf.register_new_resolver("gpus_or_cores", lambda: _gpus() or _cores(), replace=True)
OmegaConf.register_new_resolver("one_gpu_if_any", lambda: min(1, _gpus()), replace=True)
