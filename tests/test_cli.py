"""The command line: help, lists, completion, config folders, dry runs, sweeps and exit codes."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import Project, done, xconsensus
from omegaconf import OmegaConf

import xconsensus as package
from xconsensus.cli import STAGES
from xconsensus.members.catalogue import specifications

GROUPS = ("committee", "dataset", "experiment", "explainer")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_stage(arguments: list[str]) -> None:
    outcome = done(*arguments)
    assert all(f"  {stage} " in outcome.out for stage in STAGES)
    assert "xconsensus ls" in outcome.out
    assert outcome.err == ""


def test_the_version_names_the_package_what_computes_and_where() -> None:
    first, second, third = done("--version").out.splitlines()
    assert first == f"xconsensus {package.__version__}"
    assert second == ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    assert third.startswith("device: ")
    assert name in third


def test_windows_is_told_in_one_line_what_to_do() -> None:
    code = (
        "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; sys.argv[1:] = ['run'];"
        "from xconsensus.cli import main; main()"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert outcome.stdout == ""
    assert outcome.stderr.splitlines() == [
        "error: xconsensus runs on Linux and macOS; on Windows run it in WSL 2 (its file locks are POSIX's)"
    ]


def test_help_and_lists_load_no_torch() -> None:
    code = "import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)));"
    code += "from xconsensus.cli import main; main()"
    for arguments, slow in (([], "hydra"), (["ls"], "hydra"), (["explain", "--help"], "pandas")):
        outcome = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert (outcome.returncode, {slow, "torch", "pandas"} & {*outcome.stderr.split()}) == (0, set())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_help_names_groups_and_keys(stage: str) -> None:
    text = done(stage, "--help").out
    assert f"usage: xconsensus {stage} " in text
    assert all(f"{group}: " in text for group in GROUPS)
    assert "output_dir: outputs" in text


def options(group: str) -> set[str]:
    return {path.stem for path in (Path(__file__).parents[1] / "conf" / group).glob("*.yaml")}


@pytest.mark.parametrize("group", GROUPS)
def test_ls_names_every_option_with_a_comment(group: str) -> None:
    lines = done("ls", f"{group}s").out.splitlines()
    assert f"{group}={'NAME'}" in lines[0]
    listed = [line.split(maxsplit=1) for line in lines[1:]]
    assert {name for name, _ in listed} == options(group)
    assert all(len(comment) > 10 for _, comment in listed)


def test_ls_without_a_kind_names_all_groups() -> None:
    text = done("ls").out
    assert all(f"\n  {name} " in text for group in GROUPS for name in options(group))


def test_ls_members_names_every_member_of_every_committee() -> None:
    text = done("ls", "members").out
    for name in options("committee"):
        config = OmegaConf.load(Path(__file__).parents[1] / f"conf/committee/{name}.yaml")
        members = specifications(dict(OmegaConf.to_container(config)))  # type: ignore[arg-type]
        assert f"members of {name} ({len(members)})" in text
        assert all(f"  {member} " in text and spec["model"] in text for member, spec in members.items())


def test_ls_names_a_user_s_own_files(photographs: Project) -> None:
    folder = str(photographs.folder / "conf")
    assert "  grids  " in done("ls", "committees", "--config-dir", folder).out
    members = done("ls", "members", f"--config-dir={folder}").out
    assert all(f"  {name} " in members for name in ("first", "second", "third", "fourth", "resnet10_w8"))


def test_cfg_job_prints_the_config_that_a_run_would_have() -> None:
    config = OmegaConf.create(done("explain", "--cfg", "job", "explainer=smoothgrad", "seed=7", "+new=1").out)
    assert (config.seed, config.explainer.name, config.dataset.name, config.new) == (7, "smoothgrad", "shapes", 1)
    assert "hydra" not in config


def test_a_committee_picks_its_data_set_and_the_command_line_overrules_it() -> None:
    by_committee = OmegaConf.create(done("explain", "--cfg", "job", "committee=imagenet7").out)
    assert (by_committee.dataset.loader, by_committee.dataset.name) == ("imagenet", "imagenet")
    given = OmegaConf.create(done("explain", "--cfg", "job", "committee=imagenet7", "dataset=shapes").out)
    assert given.dataset.loader == "shapes"
    assert given.committee.name == "imagenet7"


def test_a_user_s_committee_picks_its_data_set_too(photographs: Project) -> None:
    config = OmegaConf.create(photographs.done("explain", "--cfg", "job").out)
    assert (config.committee.name, config.dataset.loader, config.dataset.name) == ("grids", "imagefolder", "pets")


def script() -> Path:
    """The installed console script."""
    path = Path(sys.executable).with_name("xconsensus")
    if not path.is_file():
        pytest.skip(f"{path} does not exist: install the package to test its console script")
    return path


def completed(line: str) -> set[str]:
    outcome = xconsensus("-sc", "query=bash", environment={"COMP_LINE": line, "COMP_POINT": str(len(line))})
    assert outcome.code == 0, outcome.err
    return set(outcome.out.split())


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("xconsensus ", {*STAGES, "ls"}, set()),
        ("xconsensus ex", {"explain"}, {"finetune", "ls"}),
        ("xconsensus explain ", {"explainer=", "committee=", "dataset=", "explain."}, {"explain"}),
        ("xconsensus explain expl", {"explainer=", "explain."}, {"committee="}),
        ("xconsensus explain explainer=", {"explainer=lime", "explainer=smoothgrad"}, set()),
        ("xconsensus run experiment=sh", {"experiment=shapes"}, {"experiment=imagenet_sample"}),
        ("xconsensus finetune finetune.e", {"finetune.epochs=", "finetune.eval_batch_size="}, {"finetune.flip="}),
        ("xconsensus vote explainer=smoothgrad explainer.", {"explainer.noise="}, {"explainer.kernel_width="}),
    ],
)
def test_completion_offers_stages_groups_options_and_keys(line: str, offered: set[str], not_offered: set[str]) -> None:
    found = completed(line)
    assert offered <= found
    assert not found & not_offered


def test_the_completion_hook_is_for_this_command() -> None:
    """Bash itself completes, through the hook and the console script."""
    hook = done("-sc", "install=bash").out
    line = "xconsensus explain explainer=s"
    typed = f"COMP_LINE='{line}'\nCOMP_POINT={len(line)}\nCOMP_CWORD=2\n"
    environment = {**os.environ, "PATH": f"{script().parent}:{os.environ['PATH']}"}
    text = f"{hook}\n{typed}hydra_bash_completion\necho ${{COMPREPLY[@]}}\n"
    shell = subprocess.run(["bash"], input=text, env=environment, capture_output=True, text=True, check=True)
    assert shell.stdout.split() == ["explainer=smoothgrad"]


@pytest.mark.parametrize(
    ("before", "stage", "says"),
    [
        ("photographs", "finetune", "predict 24 images by 4 members"),
        ("predicted", "explain", "would make 24 explanations by lime: 504 forward and 0 backward passes"),
        ("explained", "vote", "would let 4 members vote on 6 images"),
        ("voted", "score", "would compare 4 members with the consensus on 6 images"),
        ("scored", "plot", "would draw"),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    request: pytest.FixtureRequest, before: str, stage: str, says: str
) -> None:
    project: Project = request.getfixturevalue(before)
    files = sorted(project.folder.rglob("*"))
    extra = ("explainers=[lime]",) if stage == "plot" else ()
    outcome = project.done(stage, "dry_run=true", *extra)
    assert says in outcome.err
    assert sorted(project.folder.rglob("*")) == files


def test_a_dry_run_of_everything_plans_what_it_can(untrained: Project) -> None:
    outcome = untrained.done("run", "dry_run=true", "explain.only_correct=all")
    assert "to train, 2 epochs of 48 images" in outcome.err
    assert "at most 4 of 24" in outcome.err  # before any member has predicted
    assert "explain would make 16 explanations by lime: 336 forward and 0 backward passes, about" in outcome.err
    assert "explain would make 16 explanations by smoothgrad: 336 forward and 320 backward passes" in outcome.err
    later = "takes no pass of a network, and cannot be planned yet"
    assert all(f"{stage}: {later}" in outcome.err for stage in ("vote lime", "score lime", "plot"))
    assert re.search(r"^in all about \d+ (s|min) of networks' passes", outcome.err, re.MULTILINE)
    assert not untrained.outputs.exists()


def test_a_dry_run_prices_what_is_left_and_leaves_out_what_cannot_be_drawn(scored: Project) -> None:
    said = scored.done("finetune", "dry_run=true").err
    assert said.count("predictions made already, about 0 s") == 4
    assert "predict 0 images by 4 members: about 0 s" in said
    said = scored.done("plot", "dry_run=true", "explainers=[lime]").err
    drawn, *left_out = [line for line in said.splitlines() if line.startswith(("plot would draw", "left out"))]
    assert "fig04" in drawn
    for name in ("fig06", "fig09", "fig11", "fig15"):
        assert name not in drawn
        assert any(name in line for line in left_out)


def test_a_dry_run_with_overwrite_removes_nothing(explained: Project) -> None:
    files = explained.files()
    outcome = explained.done("explain", "explainer.samples=25", "overwrite=true", "dry_run=true")
    assert "would make 24 explanations by lime: 624 forward" in outcome.err
    assert explained.files() == files


def test_a_sweep_over_explainers_runs_each(predicted: Project) -> None:
    outcome = predicted.done("explain", "--multirun", "explainer=lime,smoothgrad", "committee.only=[first]")
    assert "job 0: " in outcome.err
    assert "job 1: " in outcome.err
    explanations = predicted.outputs / "pets/explanations"
    assert {path.name for path in explanations.iterdir()} == {"lime", "smoothgrad"}
    assert all([*folder.glob("first/*.safetensors")] for folder in explanations.iterdir())


def test_a_failing_job_of_a_sweep_does_not_stop_the_others(photographs: Project) -> None:
    outcome = photographs.run("finetune", "--multirun", "committee.only=[first],[fifth],[third]")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert "fifth" in outcome.errors[0]
    predictions = photographs.outputs / "pets/predictions/test"
    assert {path.stem for path in predictions.iterdir()} == {"first", "third"}


def test_run_with_a_key_that_no_explainer_has_stops_before_any_work(photographs: Project) -> None:
    outcome = photographs.run("run", "explainer.kernel_widht=0.3")
    assert outcome.code == 2
    assert "kernel_width" in outcome.errors[0]
    assert not photographs.outputs.exists()


def test_a_defect_of_the_program_keeps_its_traceback(photographs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from xconsensus.stages import finetune

    def defective(*_: object) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr(finetune, "predict_member", defective)
    with pytest.raises(AssertionError, match="a defect"):
        photographs.run("finetune")


def test_the_console_script_runs_in_a_process_of_its_own(photographs: Project) -> None:
    command = [str(script()), "finetune", *photographs.arguments]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout) == (0, "")
    assert len([*(photographs.outputs / "pets/predictions/test").iterdir()]) == 4
    bad = subprocess.run([*command, "finetune.epoch=1"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: finetune.epoch")
    assert len(bad.stderr.splitlines()) == 1


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    """Each in a process of its own, which ends as the console script does; all forked from one that has imported."""
    code = """
import importlib, os, sys
for each in ("cli", "stages.score", "stages.status", "jobs.surroundings", "cli.listing"):
    importlib.import_module(f"xconsensus.{each}")
from xconsensus.cli import main
reader, writer = os.pipe()
os.close(reader)
ends = []
for words in sys.argv[1:]:
    if not (child := os.fork()):
        os.dup2(writer, 1)
        sys.argv = ["xconsensus", *words.split()]
        sys.exit(main())
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(ends)
"""
    command = [sys.executable, "-c", code, "score --help", "--help", "--version", "ls members", "status"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (outcome.stdout, outcome.stderr) == (f"{[141] * 5}\n", "")


def test_a_dry_run_downloads_no_weights(photographs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    import timm

    create = timm.create_model

    def without_weights(*arguments: object, pretrained: bool = False, **kwargs: object) -> object:
        assert not pretrained
        return create(*arguments, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, "create_model", without_weights)
    spec = "+committee.members.small={library: timm, model: test_resnet, pretrained: r160_in1k}"
    trained = ("committee.finetune=true", "+dataset.splits.train=.")  # its 1000 classes become 2
    text = photographs.done("finetune", spec, *trained, "dry_run=true").err
    assert re.search(r"  small: 0\.\d+ M parameters, to train", text)
