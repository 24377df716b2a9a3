"""explain through SLURM, on a cluster of two nodes started here: the files of one process, whatever dies."""

import signal
from collections.abc import Iterator

import clusters
import pytest
from conftest import Project
from test_cluster import PIECES, Sweep, files, project, pytestmark, writes_the_files_of_one_process

__all__ = ["project", "pytestmark"]  # pytest finds both here


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Slurm]:
    with clusters.slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def test_a_slurm_sweep_writes_the_files_of_one_process_on_both_nodes(project: Project, slurm: clusters.Slurm) -> None:
    writes_the_files_of_one_process(project, "submitit_slurm", slurm.environment)
    assert {*slurm.ask("squeue", "-h", "-r", "-t", "all", "-o", "%N").split()} == {"one", "two"}


def test_a_slurm_job_at_its_time_limit_is_queued_again_and_goes_on(project: Project, slurm: clusters.Slurm) -> None:
    sweep = Sweep(project, "limited", "submitit_slurm", slurm.environment, "explainer.samples=2000")
    clusters.wait_for(sweep.started, "the first explanations")
    slurm.ask("scancel", "--signal=USR2", job := slurm.running()[0])  # what SLURM sends before the time limit
    code, error = sweep.end()
    assert code == 0, error
    assert files(project, "limited") == files(project, "slow")
    assert "Restarts=1 " in slurm.ask("scontrol", "show", "job", job)


def test_a_slurm_sweep_that_lost_a_job_a_node_and_itself_starts_again(project: Project, slurm: clusters.Slurm) -> None:
    arguments = (project, "hurt", "submitit_slurm", slurm.environment, "explainer.samples=2000")
    sweep = Sweep(*arguments)
    clusters.wait_for(lambda: sweep.started() and len(slurm.running()) == 2, "the first explanations")
    slurm.ask("scancel", slurm.running()[0])
    slurm.kill_node("two")
    sweep.process.send_signal(signal.SIGINT)
    code, error = sweep.end()
    assert (code, error.splitlines()[-1]) == (
        130,
        "interrupted: what is done is kept; the same command goes on from there",
    )
    assert sweep.pieces() < PIECES
    slurm.start_node("two")
    code, error = Sweep(*arguments).end()
    assert code == 0, error
    assert files(project, "hurt") == files(project, "slow")
