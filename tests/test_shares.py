"""finetune and explain spread over jobs: together they make what one job makes, and each takes its part alone.

The parts are complete, near-equal, the same for everybody.
"""

import itertools
import random

import numpy as np
import pytest
import torch
from conftest import Project
from safetensors.torch import load_file

from xconsensus.jobs.shares import partition

SHARDS = 3
LOGNORMAL = np.random.default_rng(0).lognormal(20, 1.5, 60).astype(int).tolist()


def units(costs: list[int]) -> dict[tuple[str, int], int]:
    return {(f"member{i // 3}", i % 3): cost for i, cost in enumerate(costs)}


@pytest.mark.parametrize("parts", [1, 2, 7, 16, 100])
def test_every_unit_is_in_exactly_one_part(parts: int) -> None:
    costs = units(LOGNORMAL)
    found = partition(costs, parts)
    assert len(found) == parts
    assert sorted(itertools.chain(*found)) == sorted(costs)


@pytest.mark.parametrize("parts", [2, 7, 16])
def test_parts_are_near_equal_by_cost(parts: int) -> None:
    """No part exceeds the least one by more than the smallest unit of its own: else that unit would stand there."""
    costs = units(LOGNORMAL)
    found = partition(costs, parts)
    loads = [sum(costs[unit] for unit in part) for part in found]
    for part, load in zip(found, loads, strict=True):
        assert load - min(costs[unit] for unit in part) <= min(loads)


def test_the_largest_part_is_within_graham_s_bound_of_the_best() -> None:
    rng = random.Random(0)
    for _ in range(50):
        costs = {f"u{i}": rng.randint(1, 30) for i in range(7)}
        sums = (
            max(sum(c for c, at in zip(costs.values(), where, strict=True) if at == part) for part in range(3))
            for where in itertools.product(range(3), repeat=7)
        )
        largest = max(sum(costs[unit] for unit in part) for part in partition(costs, 3))
        assert largest <= (4 / 3 - 1 / 9) * min(sums)


def test_the_order_of_the_units_has_no_influence() -> None:
    costs = units([5, 3, 5, 3, 3, 8] * 5)
    shuffled = list(costs.items())
    random.Random(1).shuffle(shuffled)
    assert partition(dict(shuffled), 4) == partition(costs, 4)


def test_it_is_by_cost_not_by_count() -> None:
    assert partition({"big": 10, "a": 4, "b": 3, "c": 3}, 2) == [["big"], ["a", "b", "c"]]


def test_more_parts_than_units_leave_some_empty() -> None:
    assert partition({"a": 1, "b": 0}, 4) == [["a"], ["b"], [], []]


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
