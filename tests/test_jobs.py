"""Jobs of a sweep and the launchers' presets, as far as they can be seen without starting other processes."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from conftest import Project, done
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from xconsensus.errors import DamagedError, InputError, SettingsError
from xconsensus.jobs import job as jobs
from xconsensus.jobs.process import own_device

# Hydra says that the plugin's own options complete a preset of the same name; pytest undoes the program's filter.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher:UserWarning")
PRESETS = Path(__file__).parents[1] / "conf/hydra/launcher"
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


def hydra_config(*arguments: str) -> str:
    return done("explain", "--cfg", "hydra", *arguments).out


def test_every_launcher_of_the_extras_has_a_preset() -> None:
    assert {path.stem for path in PRESETS.iterdir()} == {*EXTRAS}


@pytest.mark.parametrize("launcher", EXTRAS)
def test_a_launcher_is_our_preset(launcher: str) -> None:
    preset = OmegaConf.load(PRESETS / f"{launcher}.yaml")
    config = OmegaConf.create(hydra_config(f"hydra/launcher={launcher}"))
    assert OmegaConf.merge(config.hydra.launcher, preset) == config.hydra.launcher


def test_a_key_of_a_preset_can_be_changed() -> None:
    changed = hydra_config("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=30")
    assert OmegaConf.create(changed).hydra.launcher.timeout_min == 30


@pytest.mark.parametrize(("launcher", "extra"), EXTRAS.items())
def test_a_launcher_that_is_not_installed_is_one_line(photographs: Project, launcher: str, extra: str) -> None:
    target = str(OmegaConf.select(OmegaConf.load(PRESETS / f"{launcher}.yaml"), "_target_"))
    absent = f"hydra.launcher._target_={target.rpartition('.')[0]}.Absent"
    outcome = photographs.run("explain", "-m", "shard=0,1", "shards=2", f"hydra/launcher={launcher}", absent)
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        f"error: the {launcher.partition('_')[0]} launcher is not installed: pip install 'xconsensus[{extra}]'"
    ]


def test_the_folder_of_a_sweep_is_absolute_and_always_the_same() -> None:
    def folder(*arguments: str) -> str:
        text = done("explain", "--cfg", "all", "--package", "hydra.sweep", "--resolve", *arguments).out
        return str(OmegaConf.create(text).dir)

    assert folder() == folder("seed=3") == f"{Path.cwd()}/outputs/.sweep/explain"
    assert folder("output_dir=/somewhere else") == "/somewhere else/.sweep/explain"


def test_a_job_is_pickled_by_name() -> None:
    assert len(pickle.dumps(jobs.Job("explain"))) < 200
    assert pickle.loads(pickle.dumps(jobs.Job("explain"))) == jobs.Job("explain")


def test_a_job_in_another_process_works_in_the_sweep_s_folder_and_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "failed", None)
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hydra = {"runtime": {"cwd": str(elsewhere)}, "mode": None, "job": {"num": 0}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
    with pytest.raises(InputError, match="vote is not shared by jobs"):
        jobs.Job("vote")(OmegaConf.create({"source": "run", "shards": 2}))
    assert Path.cwd() == elsewhere


def test_a_command_keeps_convolutions_on_gpus_from_rounding_float32(
    predicted: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    predicted.done("explain")
    assert not torch.backends.cudnn.allow_tf32


def test_jobs_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(own_device(job)) for job in (0, 1, 2, 3)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert str(own_device(None)) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(own_device(1)) == "cpu"


def test_jobs_that_all_start_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    for launcher, threads in (("LocalLauncher", max(1, cores // 2)), ("JoblibLauncher", None)):
        hydra = {"launcher": {"_target_": f"a.{launcher}"}, "mode": "MULTIRUN", "job": {"num": 0}}
        monkeypatch.setattr(jobs, "job_number", lambda: 0)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
        assert jobs.job_threads(2) == threads


@pytest.mark.parametrize(
    "error",
    [
        InputError("a line"),
        SettingsError(Path("a.safetensors"), "seed is 1 there, 0 now"),
        DamagedError(Path("a.safetensors"), "its checksum differs", "xconsensus explain"),
    ],
)
def test_an_error_arrives_from_another_process(error: InputError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
