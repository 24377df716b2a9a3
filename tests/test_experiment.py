"""One experiment serves a whole command; opening it, and asking what is there, changes nothing on the disk."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from conftest import Project
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from xconsensus import datasets
from xconsensus.datasets.coco import COCO
from xconsensus.datasets.cub200 import CUB200
from xconsensus.datasets.fine_grained import FineGrained, Flowers102
from xconsensus.datasets.flowers17 import Flowers17
from xconsensus.datasets.imagefolder import ImageFolder
from xconsensus.datasets.imagenet import ImageNet
from xconsensus.datasets.oxford_pets import OxfordPets
from xconsensus.datasets.shapes import Shapes
from xconsensus.errors import InputError
from xconsensus.experiment import experiment
from xconsensus.experiment.config import plain
from xconsensus.members.member import members_of
from xconsensus.stages import explain as stage
from xconsensus.store.files import read_csv
from xconsensus.store.processes import HOST

CONF = Path(__file__).parents[1] / "conf/dataset"
LOADERS = {
    "cars196": FineGrained,
    "coco": COCO,
    "cub200": CUB200,
    "flowers102": Flowers102,
    "flowers17": Flowers17,
    "food101": FineGrained,
    "imagefolder": ImageFolder,
    "imagenet": ImageNet,
    "oxford_pets": OxfordPets,
    "shapes": Shapes,
}
# by what artefacts of images on users' disks are compared, besides loader, size and resize
ON_DISK: dict[str, dict[str, Any]] = {
    "shapes": {"seed": 0, "objects": 1},
    "coco": {"labels": "coco"},
    "flowers17": {"split_seed": 0},
}


def test_a_run_looks_members_and_data_up_once(quartet_copy: Project) -> None:
    with (
        patch.object(experiment, "members_of", wraps=members_of) as members,
        patch.object(datasets, "load", wraps=datasets.load) as load,
    ):
        quartet_copy.done("run")
    assert (members.call_count, load.call_count) == (1, 1)


def test_a_member_whose_predictions_are_there_is_not_looked_up(quartet_copy: Project) -> None:
    with patch("xconsensus.members.member.check_model") as check:
        quartet_copy.done("plot")
    assert check.call_count == 0
    outcome = quartet_copy.run("finetune", "committee.members.resnet.model=resnet10x", "overwrite=true")
    assert "member resnet: timm has no model 'resnet10x'; nearest: " in outcome.err


@pytest.mark.parametrize("arguments", [("status",), ("explain", "dry_run=true"), ("run", "dry_run=true")])
def test_a_question_removes_nothing_that_a_killed_process_left(scored: Project, arguments: tuple[str, ...]) -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    left = scored.outputs / f"pets/explanations/.abc.{HOST}.{child}.tmp"
    left.write_text("half")
    scored.run(*arguments)
    assert left.exists()
    scored.done("explain")
    assert not left.exists()


def test_opening_sets_no_threads(scored: Project) -> None:
    before = torch.get_num_threads()
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        path = f"hydra.searchpath=[file://{scored.folder}/conf]"
        config = compose("explain", overrides=[path, *scored.arguments[2:], "threads=3"])
    opened = experiment.open_experiment(plain(config))
    assert torch.get_num_threads() == before
    assert [member.name for member in opened.members] == ["first", "second", "third", "fourth"]


def test_a_member_left_out_for_one_explainer_is_back_for_the_next(photographs: Project) -> None:
    kept = stage.explain_member

    def fail_for_lime(work: Any, member: Any, *others: Any) -> None:
        if (work.experiment.explainer_name, member.name) == ("lime", "second"):
            raise InputError("broken for LIME")
        kept(work, member, *others)

    with patch.object(stage, "explain_member", fail_for_lime):
        outcome = photographs.run("run", "committee.allow_missing=true", "explainers=[lime,smoothgrad]")
    assert outcome.code == 2
    members = {
        explainer: list(read_csv(photographs.outputs / f"pets/scores/grids/{explainer}/members.csv")["member"])
        for explainer in ("lime", "smoothgrad")
    }
    assert members == {
        "lime": ["first", "third", "fourth", "consensus"],
        "smoothgrad": ["first", "second", "third", "fourth", "consensus"],
    }


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_s_own_keys_are_those_that_artefacts_on_disk_have(name: str) -> None:
    group: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    loader: Any = LOADERS[name]
    saying: Any = SimpleNamespace(image_keys=loader.image_keys)
    found = datasets.image_settings(saying, group)
    general = {"loader": name, "size": group["size"], "resize": group["resize"]}
    assert found == {**general, **ON_DISK.get(name, {})}


def test_an_own_loader_that_says_nothing_has_all_keys_but_those_of_files() -> None:
    group = {"name": "x", "loader": "a.b", "root": "r", "masks": "m", "size": 8, "resize": 9, "blur": 2, "splits": {}}
    own: Any = SimpleNamespace()
    assert datasets.image_settings(own, group) == {"loader": "a.b", "size": 8, "resize": 9, "blur": 2}
    saying: Any = SimpleNamespace(image_keys=(), mask_keys=("blur",))
    assert datasets.image_settings(saying, group) == {"loader": "a.b", "size": 8, "resize": 9}
    assert datasets.mask_settings(saying, group) == {"blur": 2}
