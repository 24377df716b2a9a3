"""explain through launchers, on a Ray cluster of two nodes started here: the files of one process, whatever dies.

SLURM has a file of its own, test_slurm.py, so that two processes share the waiting.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import clusters
import pytest
from conftest import Project, _photographs

pytestmark = pytest.mark.skipif(
    "XCONSENSUS_CLUSTER" not in os.environ, reason="starts SLURM and Ray: make test-cluster"
)
SHARDS = 3
PIECES = 24  # four members, six images
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=null")
OPTIONS = {
    "joblib": ("hydra/launcher=joblib",),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "submitit_slurm": (*SLURM, "hydra.launcher.cpus_per_task=1"),
    "ray": ("hydra/launcher=ray",),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The photographs, and what one process makes of them as data sets quick and slow."""
    made = _photographs(tmp_path_factory.mktemp("cluster"))
    folder = f"{made.folder}/"
    relative = tuple(argument.replace(folder, "") for argument in made.arguments)
    project = Project(made.folder, (*relative, "explain.shard_images=1"))
    with contextlib.chdir(project.folder):
        for name, samples in (("quick", 20), ("slow", 2000)):
            project.done("explain", f"dataset.name={name}", f"explainer.samples={samples}")
    return project


@pytest.fixture(scope="module")
def ray() -> Iterator[clusters.Ray]:
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder,  # short: sockets lie in it
        clusters.ray(Path(folder)) as cluster,
    ):
        yield cluster


class Sweep:
    """One sweep of explain as a process of its own, all its folders relative to where it starts."""

    def __init__(self, project: Project, name: str, launcher: str, environment: dict[str, str], *extra: str) -> None:
        self.folder = project.outputs / name
        command = [str(Path(sys.executable).with_name("xconsensus")), "explain", *project.arguments]
        command += [
            "-m",
            f"dataset.name={name}",
            f"shard=range({SHARDS})",
            f"shards={SHARDS}",
            *OPTIONS[launcher],
            *extra,
        ]
        self.process = subprocess.Popen(command, cwd=project.folder, env=environment, stderr=subprocess.PIPE, text=True)

    def pieces(self) -> int:
        """How many explanations are written."""
        return len([*self.folder.glob("explanations/*/*/*.safetensors")])

    def started(self) -> bool:
        """Whether a few pieces are done and others not."""
        return 2 <= self.pieces() < PIECES

    def end(self) -> tuple[int, str]:
        """Wait for it: exit code and standard error."""
        error = self.process.communicate(timeout=120)[1]
        return self.process.returncode, error


def files(project: Project, name: str) -> dict[str, bytes]:
    """The files of a data set, without its name."""
    return {path.partition("/")[2]: content for path, content in project.files().items() if path.startswith(f"{name}/")}


def writes_the_files_of_one_process(project: Project, launcher: str, environment: dict[str, str]) -> None:
    code, error = Sweep(project, launcher, launcher, environment).end()
    assert code == 0, error
    found = files(project, launcher)
    assert found == files(project, "quick")
    assert len([path for path in found if path.startswith("explanations/")]) == PIECES


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_on_this_machine_writes_the_files_of_one_process(project: Project, launcher: str) -> None:
    writes_the_files_of_one_process(project, launcher, dict(os.environ))


def test_a_ray_sweep_writes_the_files_of_one_process(project: Project, ray: clusters.Ray) -> None:
    writes_the_files_of_one_process(project, "ray", ray.environment)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_bad_input_in_one_job_is_one_line_and_the_other_jobs_finish(project: Project, launcher: str) -> None:
    name = f"{launcher}_failing"
    sweep = Sweep(project, name, launcher, dict(os.environ), "committee.only=[first],[fifth]", "shard=0", "shards=1")
    code, error = sweep.end()
    assert code == 2
    assert "Traceback" not in error
    assert "committee.only: grids has no member fifth" in error.splitlines()[-1]
    assert sweep.pieces() == 6


def test_a_job_that_is_lost_is_one_line(project: Project) -> None:
    sweep = Sweep(project, "lost", "joblib", dict(os.environ), "explainer.samples=2000")
    clusters.wait_for(sweep.started, "the first explanations")
    workers = [pid for pid in clusters.pids() if clusters.parent_of(pid) == sweep.process.pid]
    clusters.kill(next(pid for pid in workers if "popen_loky_posix" in clusters.command_of(pid)))
    code, error = sweep.end()
    assert code == 2
    assert "Traceback" not in error
    assert "error: joblib lost a job" in error.splitlines()[-1]


def test_a_ray_sweep_that_lost_itself_and_then_a_worker_ends_with_the_same_files(
    project: Project, ray: clusters.Ray
) -> None:
    arguments = (project, "killed", "ray", ray.environment, "explainer.samples=2000")
    sweep = Sweep(*arguments)
    clusters.wait_for(sweep.started, "the first explanations")
    sweep.process.kill()
    sweep.end()
    clusters.wait_for(lambda: not ray.jobs(), "the end of the killed sweep's jobs")
    done = sweep.pieces()
    assert done < PIECES
    sweep = Sweep(*arguments)
    clusters.wait_for(lambda: done < sweep.pieces() < PIECES, "more explanations")
    clusters.kill(ray.jobs()[0])
    code, error = sweep.end()
    assert code == 0, error
    assert files(project, "killed") == files(project, "slow")
