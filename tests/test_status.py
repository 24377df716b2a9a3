"""xconsensus status: what is done, missing, running, failed, crashed and damaged, and its exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, Project, wait_until
from test_checksums import flipped
from test_cli import script

from xconsensus.jobs.worklog import Worklog, read_entry
from xconsensus.store.files import write_json
from xconsensus.store.processes import HOST, PLACE

LIME = ("explainers=[lime]",)


def row(outcome: Outcome, name: str) -> list[str]:
    return next(line.split() for line in outcome.out.splitlines() if line.split()[:1] == [name])


def log_of(project: Project, name: str) -> Path:
    return project.outputs / f"pets/status/{name}.json"


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_all_done_is_0(scored: Project) -> None:
    outcome = scored.done("status", *LIME)
    for name in ("first", "second", "third", "fourth"):
        assert row(outcome, name) == [name, "-", "yes", "6/6"]
    assert row(outcome, "lime") == ["lime", "24/24", "6/6", "yes", "none"]


def test_before_any_stage_all_is_missing_and_nothing_is_written(photographs: Project) -> None:
    outcome = photographs.run("status")
    assert outcome.code == 3
    assert row(outcome, "first") == ["first", "-", "no", "0/?", "0/?"]
    assert not photographs.outputs.exists()


def test_what_is_missing_is_counted_and_timed(scored: Project) -> None:
    next((scored.outputs / "pets/explanations/lime/third").iterdir()).unlink()
    write_json(log_of(scored, "explain/lime/first"), {"state": "done", "done": 6, "seconds": 12.0})
    write_json(log_of(scored, "explain/lime/second"), {"state": "done", "done": 6, "seconds": 24.0})
    log_of(scored, "explain/lime/third").unlink()
    log_of(scored, "explain/lime/fourth").unlink()
    outcome = scored.run("status", *LIME)
    assert outcome.code == 3
    assert row(outcome, "third")[3] == "0/6"
    assert row(outcome, "lime")[1:4] == ["18/24", "6/6", "yes"]
    assert "about 18 s" in outcome.out


def test_status_changes_nothing(scored: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in scored.folder.rglob("*")}
    scored.run("status", "verify=true")
    assert {path: path.stat().st_mtime_ns for path in scored.folder.rglob("*")} == before


@pytest.mark.parametrize(
    "pattern",
    [
        "predictions/test/second.safetensors",
        "superpixels/quickshift/*",
        "explanations/lime/second/*",
        "consensus/grids/lime/*",
        "images/grids.csv",
        "scores/grids/lime/members.csv",
    ],
)
def test_verify_names_what_is_damaged(scored: Project, pattern: str) -> None:
    path = next((scored.outputs / "pets").glob(pattern))
    flipped(path)
    outcome = scored.run("status", "verify=true", *LIME)
    assert outcome.code == 2
    assert f"{path}: damaged" in outcome.out


def test_a_failing_member_lets_the_others_finish_and_stands_in_status_until_it_succeeds(predicted: Project) -> None:
    config = predicted.folder / "conf/committee/grids.yaml"
    good = config.read_text()
    config.write_text(good.replace("second: {", "second: {model: 'grids.py:NaN', "))
    shutil.rmtree(predicted.outputs)
    outcome = predicted.run("finetune")
    assert outcome.code == 2
    status = predicted.run("status", *LIME)
    assert status.code == 2
    assert "failed: finetune second" in status.out
    assert "NaN" in status.out
    assert HOST in status.out
    assert [row(status, name)[2] for name in ("first", "second", "third")] == ["yes", "no", "yes"]
    config.write_text(good)
    predicted.done("finetune")
    assert "failed" not in predicted.run("status", *LIME).out


def test_a_running_member_is_shown_and_a_dead_process_has_crashed(explained: Project) -> None:
    shutil.rmtree(explained.outputs / "pets/explanations/lime/second")
    path = log_of(explained, "explain/lime/second")
    write_json(path, {"state": "running", "host": HOST, "pid": os.getpid(), "started": "now"})
    outcome = explained.run("status", *LIME)
    assert outcome.code == 3
    assert f"explain/lime running ({HOST}, process {os.getpid()})" in outcome.out
    write_json(path, {"state": "running", "host": HOST, "pid": dead_process(), "started": "now"})
    outcome = explained.run("status", *LIME)
    assert outcome.code == 2
    assert "crashed: explain/lime second" in outcome.out
    explained.done("explain")
    assert "crashed" not in explained.run("status", *LIME).out


def test_a_member_that_crashes_the_process_is_tried_last(predicted: Project) -> None:
    module = predicted.folder / "models/grids.py"
    crash = "\n\nclass Crash(Grid):\n    def forward(self, inputs):\n        import os\n        os.abort()\n"
    module.write_text(module.read_text() + crash)
    config = predicted.folder / "conf/committee/grids.yaml"
    config.write_text(config.read_text().replace("first: {", "first: {model: 'grids.py:Crash', "))
    shutil.rmtree(predicted.outputs)
    predictions = predicted.outputs / "pets/predictions/test"
    command = [str(script()), "finetune", *predicted.arguments]
    made = []
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGABRT
        made.append({path.stem for path in predictions.glob("*.safetensors")})
    assert made == [set(), {"second", "third", "fourth"}]
    found = read_entry(log_of(predicted, "finetune/first"))
    assert found
    assert (found.state, found.deaths) == ("crashed", 2)
    assert "crashed: finetune first" in predicted.run("status", *LIME).out


def test_logs_follow_the_work(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    Worklog(path).end("done")
    Worklog(path).end("stopped")
    assert not path.exists()
    worklog = Worklog(path)
    worklog.begin()
    worklog.add(3)
    worklog.add(4)
    running = json.loads(path.read_text())
    assert (running["state"], running["done"], running["pid"], running["host"]) == ("running", 7, os.getpid(), HOST)
    worklog.end("failed", "why")
    failed = read_entry(path)
    assert failed
    assert (failed.state, failed.message) == ("failed", "why")
    Worklog(path).end("done")
    done = read_entry(path)
    assert done
    assert (done.state, done.message, done.done) == ("done", "", 7)
    path.write_text("{damaged")
    assert read_entry(path) is None


def test_an_interrupted_run_has_stopped_not_crashed(predicted: Project) -> None:
    shutil.rmtree(predicted.outputs / "pets/status")
    command = [str(script()), "explain", *predicted.arguments, "explain.shard_images=1", "explainer.samples=30000"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    path = log_of(predicted, "explain/lime/first")
    wait_until(path.exists)
    process.terminate()
    process.wait()
    found = read_entry(path)
    assert found
    assert found.state == "stopped"


# --- members that are missing ---


def test_vote_and_score_go_on_without_missing_members_only_if_told(explained: Project) -> None:
    shutil.rmtree(explained.outputs / "pets/explanations/lime/second")
    for stage in ("vote", "score"):
        outcome = explained.run(stage)
        assert outcome.code == 2
        assert all(word in outcome.errors[0] for word in ("second", "xconsensus explain", "committee.allow_missing"))
        assert "without second" in explained.done(stage, "committee.allow_missing=true").err
    table = (explained.outputs / "pets/scores/grids/lime/members.csv").read_text()
    assert [line.split(",")[0] for line in table.splitlines()] == ["member", "first", "third", "fourth", "consensus"]
    three = explained.folder / "three"
    shutil.copytree(explained.outputs, three)
    shutil.rmtree(three / "pets/consensus")
    config = explained.folder / "conf/committee/grids.yaml"
    four = config.read_text()
    config.write_text("".join(line for line in four.splitlines(True) if "second" not in line))
    explained.done("vote", f"output_dir={three}")
    (one,) = (explained.outputs / "pets/consensus/grids/lime").iterdir()
    assert (three / "pets/consensus/grids/lime" / one.name).read_bytes() == one.read_bytes()
    config.write_text(four)
    explained.done("explain")
    outcome = explained.run("vote", "committee.allow_missing=true")
    assert outcome.code == 2
    assert "explanations.second is absent there" in outcome.errors[0]


def test_where_no_member_has_explanations_none_is_gone_on_without(predicted: Project) -> None:
    predicted.done("explain", "explain.images=1")
    for folder in (predicted.outputs / "pets/explanations/lime").iterdir():
        shutil.rmtree(folder)
    (line,) = predicted.run("vote", "explain.images=1", "committee.allow_missing=true").errors
    assert (
        "lime explanations are missing of 4 of 4 members (first, second, third, fourth): run xconsensus explain" in line
    )


def test_run_goes_on_without_a_failing_member_if_told_and_still_ends_with_2(predicted: Project) -> None:
    config = predicted.folder / "conf/committee/grids.yaml"
    config.write_text(config.read_text().replace("second: {", "second: {model: 'grids.py:NaN', "))
    shutil.rmtree(predicted.outputs)
    arguments = ("explain.only_correct=any", *LIME)
    assert predicted.run("run", *arguments).code == 2
    assert not (predicted.outputs / "pets/images").exists()
    outcome = predicted.run("run", "committee.allow_missing=true", *arguments)
    assert outcome.code == 2
    assert "second returns NaN" in outcome.errors[-1]
    assert (predicted.outputs / "pets/scores/grids/lime/members.csv").exists()


# --- sweeps ---


def test_a_sweep_names_jobs_that_failed_or_never_ended(predicted: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from xconsensus.jobs import job as jobs

    sweep = predicted.outputs / ".sweep/finetune"
    predicted.done("finetune", "--multirun", "committee.only=[first],[third]")
    for number, content in ((0, {"state": "failed", "message": "why"}), (1, {"state": "running", "host": "elsewhere"})):
        write_json(sweep / str(number) / jobs.OUTCOME, content)
    write_json(sweep / "2" / jobs.OUTCOME, {"state": "done"})
    monkeypatch.setattr(jobs, "sweep", sweep)
    assert jobs.unfinished() == ["job 0: why", "job 1: ended without a word, killed perhaps"]
    predicted.done("finetune", "--multirun", "committee.only=[first],[third]")
    assert jobs.unfinished() == []


def test_a_job_that_is_killed_makes_the_sweep_fail(predicted: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a launcher does that hides how its jobs ended: they run in processes of their own, one of them is killed."""
    from hydra._internal.core_plugins import basic_launcher
    from hydra.core.utils import JobReturn, JobStatus, run_job

    def elsewhere(**arguments: Any) -> JobReturn:
        if not (child := os.fork()):
            from xconsensus.jobs import job as jobs

            jobs.failed = None
            if arguments["config"].committee.only == ["fourth"]:
                jobs.Job._run = lambda *_: os.kill(os.getpid(), 9)  # type: ignore[method-assign]
            run_job(**arguments)
            os._exit(0)
        os.waitpid(child, 0)
        returned = JobReturn()
        returned.return_value, returned.status = None, JobStatus.COMPLETED
        return returned

    monkeypatch.setattr(basic_launcher, "run_job", elsewhere)
    jobs = "committee.only=[first],[fifth],[fourth]"
    outcome = predicted.run("finetune", "--multirun", jobs)
    assert outcome.code == 2
    assert len(outcome.errors) == 2
    assert "job 1: " in outcome.errors[0]
    assert "fifth" in outcome.errors[0]
    assert "job 2: ended without a word" in outcome.errors[1]


def test_work_of_another_container_is_neither_running_nor_crashed(explained: Project) -> None:
    path = explained.outputs / "pets/status/explain/smoothgrad/first.json"
    entry = {"state": "running", "host": HOST, "pid": os.getpid(), "place": f"{PLACE[:8]}{'0' * 8}", "start": 1}
    write_json(path, {**entry, "started": "now"})
    outcome = explained.run("status")
    assert f"explain/smoothgrad unknown ({HOST}, process {os.getpid()}, in another container" in outcome.out
    assert outcome.code == 3
