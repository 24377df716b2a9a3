"""finetune and explain spread over jobs: together they make what one job makes, and each takes its part alone."""

from pathlib import Path

import pytest
import torch
from conftest import Project
from safetensors.torch import load_file

from xconsensus.members.costs import operations_a_pass
from xconsensus.members.member import Member
from xconsensus.members.weights import build

RESNET = Member("resnet", "ResNet", "timm", "resnet18", 64, 73)
SHARDS = 3
REAL = """\
import torch


class Real(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, num_classes))

    def forward(self, inputs):
        means = inputs.mean((2, 3))
        return means @ self.weight if means.sum() < 1 else means
"""


def multiply_adds(member: Member, side: int) -> int:
    """Of convolutions and linear layers, counted by hooks on a network that really runs."""
    model, counted = build(member, 10), []

    def hook(layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        counted.append(out.numel() * weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(hook)
    model(torch.zeros(1, 3, side, side))
    return sum(counted)


@pytest.mark.parametrize("side", [64, 96])
def test_the_cost_of_a_member_is_its_operations_at_its_own_size(side: int) -> None:
    member = Member("resnet", "ResNet", "timm", "resnet18", side, side)
    assert operations_a_pass(member, 10) == 2 * multiply_adds(member, side)


def test_counting_operations_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    operations_a_pass(RESNET, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_that_needs_real_tensors_is_counted_too(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(REAL)
    member = Member("own", "Own", "module", f"{tmp_path}/own.py:Real", 32, 40)
    with torch.device("meta"), pytest.raises(RuntimeError):
        build(member, 2)(torch.zeros(1, 3, 32, 32))
    assert operations_a_pass(member, 2) == 2 * 3 * 2


def test_a_member_that_cannot_be_built_is_left_to_the_job_that_gets_it(photographs: Project) -> None:
    broken = "+committee.members.broken={kwargs: {sides: 3}}"
    outcomes = [photographs.run("explain", broken, "shards=2", f"shard={shard}") for shard in range(2)]
    assert sorted(outcome.code for outcome in outcomes) == [0, 2]
    assert [error for outcome in outcomes for error in outcome.errors if "broken" in error]


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
def test_shards_of_explain_together_write_the_files_of_one_job(explained: Project, explainer: str) -> None:
    arguments = (f"explainer={explainer}", "explainer.samples=20", "explain.shard_images=2")
    alone = Project(explained.folder, (*explained.arguments, "dataset.name=alone"))
    alone.done("explain", *arguments)
    before: set[str] = set()
    written = []
    for shard in range(SHARDS):
        together = Project(explained.folder, (*explained.arguments, "dataset.name=together"))
        outcome = together.done("explain", *arguments, f"shard={shard}", f"shards={SHARDS}")
        assert f"shard {shard} of {SHARDS}: " in outcome.err
        files = {name for name in together.files() if name.startswith("together/explanations")}
        written.append(len(files - before))
        before = files
    assert written == [4, 4, 4]  # four equal members, three chunks
    found = {
        name.partition("/")[2]: content for name, content in explained.files().items() if name.startswith("together/")
    }
    expected = {
        name.partition("/")[2]: content for name, content in explained.files().items() if name.startswith("alone/")
    }
    assert found == expected
    assert len([name for name in expected if name.startswith("explanations/")]) == 12


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
def test_members_vote_alike_whatever_images_their_files_hold(explained: Project, explainer: str) -> None:
    found = []
    for name, of_first, of_others in (("alike", 4, 4), ("apart", 4, 2)):
        project = Project(explained.folder, (*explained.arguments, "dataset.name=" + name))
        for size, only in ((of_first, "committee.only=[first]"), (of_others, "committee.only=null")):
            project.done(
                "explain", f"explainer={explainer}", "explainer.samples=20", f"explain.shard_images={size}", only
            )
        folder = project.outputs / name
        shards = {each.name: len([*each.iterdir()]) for each in (folder / f"explanations/{explainer}").iterdir()}
        assert (shards["first"] == shards["second"]) == (name == "alike")
        project.done("vote", f"explainer={explainer}", "explainer.samples=20")
        (path,) = folder.glob(f"consensus/*/{explainer}/*.safetensors")
        found.append(load_file(path)["values"])
    assert torch.equal(*found)


def test_a_shard_cuts_superpixels_of_its_own_images_only(photographs: Project) -> None:
    photographs.done("explain", "committee.only=[first]", "explain.shard_images=2", "shard=0", "shards=3")
    superpixels = [name for name in photographs.files() if "/superpixels/" in name]
    assert len(superpixels) == 1


def test_shards_of_finetune_share_the_members(photographs: Project) -> None:
    seen: list[set[str]] = []
    for shard in range(SHARDS):
        photographs.done("finetune", f"shard={shard}", f"shards={SHARDS}")
        folder = photographs.outputs / "pets/predictions/test"
        seen.append({path.stem for path in folder.iterdir()})
    assert [len(names) for names in seen] == [2, 3, 4]


def test_a_job_without_work_says_so_and_succeeds(photographs: Project) -> None:
    for stage in ("finetune", "explain"):
        outcome = photographs.done(stage, "shard=8", "shards=9")
        assert "shard 8 of 9 has nothing to do" in outcome.err
    assert not (photographs.outputs / "pets/explanations").exists()


def test_a_dry_run_plans_the_shard(photographs: Project) -> None:
    outcome = photographs.done("explain", "shard=1", "shards=4", "explain.shard_images=2", "dry_run=true")
    assert "would make 6 explanations" in outcome.err


@pytest.mark.parametrize(("arguments", "says"), [
    (["shard=1"], "shard=1 is not one of 0..0: give shards=N with shard=range(N)"),
    (["shard=4", "shards=4"], "shard=4 is not one of 0..3"),
    (["shard=-1", "shards=4"], "shard=-1 is not one of 0..3"),
    (["shards=0"], "shards=0 is less than 1"),
    (["shard=a"], "shard=a is not a whole number"),
])  # fmt: skip
def test_a_wrong_shard_is_named(photographs: Project, arguments: list[str], says: str) -> None:
    outcome = photographs.run("explain", *arguments)
    assert outcome.code == 2
    assert outcome.errors[0].startswith(f"error: {says}")


@pytest.mark.parametrize("stage", ["vote", "score", "plot", "run"])
def test_other_stages_are_not_shared(photographs: Project, stage: str) -> None:
    outcome = photographs.run(stage, "shards=2")
    assert outcome.code == 2
    assert f"{stage} is not shared by jobs" in outcome.errors[0]
