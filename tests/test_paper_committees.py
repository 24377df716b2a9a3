"""What the configs of the paper's experiments say: who votes, whose numbers stand beside, which family is shown."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import done, xconsensus
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from xconsensus.errors import InputError
from xconsensus.experiment.config import plain
from xconsensus.experiment.score_settings import family_positions
from xconsensus.members.catalogue import entries, names, specifications

SIXTEEN = [name for name in names("imagenet81") if entries()[name].family in ("ResNet", "SE_ResNet")]

# experiment -> members that vote, the data set whose numbers stand beside, and what its explainers are
PAPER: Mapping[str, tuple[int, str, list[str]]] = {
    "imagenet": (81, "imagenet", ["lime", "smoothgrad"]),
    "cub": (85, "cub200", ["lime", "smoothgrad"]),
    "cars": (20, "cars196", ["lime"]),
    "flowers": (20, "flowers102", ["lime"]),
    "foods": (20, "food101", ["lime"]),
}
COMMITTEES = {"imagenet81": 81, "vit8": 89, "cub85": 85, "cars20": 20, "flowers20": 20, "foods20": 20}


def config_of(*overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        return plain(compose("run", overrides=[*overrides]))


@pytest.mark.parametrize("name", PAPER)
def test_each_experiment_of_the_paper_has_its_voters_its_family_and_its_published_numbers(name: str) -> None:
    voters, dataset, explainers = PAPER[name]
    config = config_of(f"experiment={name}", "root=.")
    assert len(specifications(config["committee"])) == voters
    assert config["committee"]["scored"] is None
    assert config["plot"]["published"] == dataset
    assert config["dataset"]["loader"] == dataset
    assert {*(config["plot"]["family"] or [])} == ({*SIXTEEN} if name == "imagenet" else set())
    assert config["explainers"] == explainers
    assert config["explain"]["only_correct"] == "all"


@pytest.mark.parametrize("name", COMMITTEES)
def test_each_committee_of_the_paper_is_what_it_is_called_on_its_own(name: str) -> None:
    config = config_of(f"committee={name}", "dataset.root=.")
    assert len(specifications(config["committee"])) == COMMITTEES[name]
    assert config["committee"]["scored"] is None
    assert {*(config["plot"]["family"] or [])} == ({*SIXTEEN} if name in ("imagenet81", "vit8") else set())
    assert len(SIXTEEN) == 16


@pytest.mark.parametrize("name", ["table1", "resnet16", "resnet16_full"])
def test_committees_that_were_taken_out_say_what_does_their_work(name: str) -> None:
    outcome = xconsensus("run", f"committee={name}", "dataset.root=.")
    assert outcome.code == 2
    assert outcome.err.splitlines() == outcome.errors
    assert f"committee={name} was taken out: run experiment=imagenet figure=" in outcome.errors[0]
    assert "resnet16" not in done("ls", "committees").out


def test_a_published_data_set_that_the_paper_has_not_is_refused_before_any_work() -> None:
    outcome = xconsensus("run", "plot.published=cars", "dry_run=true")
    assert outcome.code == 2
    assert outcome.errors == ["error: plot.published=cars: the paper has no such data set; nearest: cars196"]


@pytest.mark.parametrize(
    ("wanted", "scored", "family"),
    [
        (SIXTEEN, ["ResNet18", "ResNet34", "VGG11"], ["ResNet18", "ResNet34"]),
        (SIXTEEN, ["VGG11", "VGG13"], []),
        (None, ["ResNet18", "VGG11", "VGG13"], ["VGG11", "VGG13"]),
        ("VGG", ["ResNet18", "VGG11"], ["VGG11"]),
        (["VGG13", "VGG11"], None, ["VGG13", "VGG11"]),
    ],
)
def test_the_family_is_of_the_members_that_are_shown(wanted: Any, scored: Any, family: list[str]) -> None:
    assert family_of(wanted, scored) == family


@pytest.mark.parametrize("wanted", [["VGG11", "VGG12"], "VGGs"])
def test_a_misspelt_family_or_member_of_it_is_still_refused(wanted: Any) -> None:
    with pytest.raises(InputError, match=r"plot\.family.*VGG"):
        family_of(wanted, None)


def family_of(wanted: Any, scored: list[str] | None) -> list[str]:
    """The family of a committee of three ResNets and three VGGs, by the names of its members."""
    own = ["ResNet18", "ResNet34", "ResNet50", "VGG11", "VGG13", "VGG16"]
    config = {"plot": {"family": wanted}, "committee": {"catalogue": own}}
    members = [SimpleNamespace(name=name, family=entries()[name].family, random=False) for name in own]
    experiment: Any = SimpleNamespace(members=members, shown_members=scored or own, config=config)
    return [own[position] for position in family_positions(experiment)]
