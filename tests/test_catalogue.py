from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from xconsensus import published
from xconsensus.cli.listing import listing
from xconsensus.compat import torchvision
from xconsensus.errors import InputError
from xconsensus.experiment.config import plain
from xconsensus.experiment.experiment import Experiment, open_experiment
from xconsensus.members.catalogue import COMMITTEES, WEIGHTS, Entry, entries, names, specifications
from xconsensus.members.member import Member, members_of
from xconsensus.members.weights import build

CONF = Path(__file__).parents[1] / "conf/committee"

import timm  # noqa: E402  (imports torchvision, so after compat)

# members a committee of the paper has, and those drawn or added
SIZES = {
    "imagenet81": 81,
    "cub85": 85,
    "cars20": 20,
    "flowers20": 20,
    "foods20": 20,
    "vit8": 89,
}


def config_of(committee: str) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(CONF / f"{committee}.yaml"))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def members(committee: dict[str, Any]) -> list[Member]:
    defaults = committee.get("member_defaults") or {}
    return members_of(specifications(committee), defaults=defaults, size=224, resize=256)


def all_members() -> list[Member]:
    """What the libraries have for every model of the paper."""
    return members({"catalogue": list(entries()), "weights": "libraries"})


# --- the table ---


def test_the_table_maps_exactly_the_published_names() -> None:
    expected = {
        model for dataset in published.DATASETS for model in published.table2(dataset)["model"] if model != "consensus"
    }
    assert set(entries()) == expected
    assert {committee: len(names(committee)) for committee in COMMITTEES} == {"imagenet81": 81, "cub85": 85}


def test_families_are_those_of_the_figures() -> None:
    for dataset in published.DATASETS:
        table = published.members(dataset)["lime"]
        for model, family in zip(table["member"], table["family"], strict=True):
            assert model == "consensus" or entries()[model].family == family


def test_whatever_is_not_exact_says_why_and_most_are_no_substitutes() -> None:
    assert {entry.fidelity for entry in entries().values()} == {"exact", "architecture", "substitute"}
    for entry in entries().values():
        assert bool(entry.reason) == (entry.fidelity != "exact"), entry.name
    for committee in COMMITTEES:
        kinds = Counter(entries()[name].fidelity for name in names(committee))
        assert kinds["exact"] + kinds["architecture"] >= 50


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("committee", SIZES)
def test_no_two_members_of_a_committee_are_the_same_network(committee: str, weights: str) -> None:
    specs = specifications({**config_of(committee), "weights": weights})
    found = Counter((spec["model"], spec["pretrained"]) for spec in specs.values())
    assert found.most_common(1)[0][1] == 1


def test_every_weights_tag_exists_and_is_of_1000_classes() -> None:
    pretrained = set(timm.list_pretrained())
    for entry in entries().values():
        if entry.library == "timm":
            assert f"{entry.model}.{entry.weights}" in pretrained
            assert timm.get_pretrained_cfg(f"{entry.model}.{entry.weights}").num_classes == 1000
        else:
            assert entry.weights in torchvision.models.get_model_weights(entry.model).__members__


def test_torchvision_s_own_numbers_are_those_of_the_table() -> None:
    for entry in entries().values():
        if entry.library == "torchvision":
            meta = torchvision.models.get_model_weights(entry.model)[entry.weights].meta
            assert entry.parameters == meta["num_params"]
            assert entry.accuracy == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)


def test_only_the_paper_s_weakly_supervised_model_saw_more_than_imagenet_1k() -> None:
    more = ("wsl", "ssl", "swsl", "in21k", "in22k", "in12k", "jft", "yfcc", "laion")
    beyond = [entry.name for entry in entries().values() if any(word in entry.weights for word in more)]
    assert beyond == ["ResNeXt101_32x8d_wsl"]


def test_substitutes_and_others_are_about_as_accurate_as_the_paper_s() -> None:
    table = published.table2("imagenet").dropna(subset="accuracy")
    for name, accuracy in zip(table["model"], table["accuracy"], strict=True):
        assert entries()[name].accuracy == pytest.approx(accuracy, abs=0.06), name


# --- the members ---


def test_every_member_builds_with_the_table_s_parameters_and_takes_its_input_size() -> None:
    """On the meta device: shapes without numbers. Also at 224 pixels, where the paper fine-tunes them all."""
    for member in all_members():
        entry = entries()[member.name]
        with torch.device("meta"), torch.inference_mode():
            model = build(replace(member, pretrained=False), 1000)
            shapes = {model(torch.empty(1, 3, size, size)).shape for size in (member.input_size, 224)}
        assert shapes == {(1, 1000)}, member.name
        assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters, member.name
        assert member.input_size == entry.input_size, member.name


def test_preprocessing_is_the_library_s_own() -> None:
    found = {member.name: member for member in all_members()}
    for entry in entries().values():
        resize, crop, normalise, interpolation = transforms_of(entry)
        member = found[entry.name]
        assert (member.resize, member.input_size) == (resize, crop), entry.name
        assert member.mean == pytest.approx(normalise[0]), entry.name
        assert member.std == pytest.approx(normalise[1]), entry.name
        assert member.interpolation == interpolation, entry.name


def transforms_of(entry: Entry) -> tuple[int, int, tuple[Any, Any], str]:
    """What the library's own evaluation transform does: resize, crop, (mean, std), interpolation."""
    if entry.library == "torchvision":
        found = torchvision.models.get_model_weights(entry.model)[entry.weights].transforms()
        return found.resize_size[0], found.crop_size[0], (found.mean, found.std), found.interpolation.value
    cfg = timm.get_pretrained_cfg(f"{entry.model}.{entry.weights}")
    resize, crop, _, normalise = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
    ).transforms
    return resize.size, crop.size[0], (normalise.mean.tolist(), normalise.std.tolist()), resize.interpolation.value


@pytest.mark.parametrize(("committee", "size"), SIZES.items())
def test_a_committee_s_file_gives_its_members(committee: str, size: int) -> None:
    found = members(config_of(committee))
    assert len(found) == size
    assert all(member.pretrained for member in found)


@pytest.mark.parametrize("committee", ["cub85", "cars20", "flowers20", "foods20"])
def test_fine_tuned_committees_see_the_paper_s_pixels(committee: str) -> None:
    assert config_of(committee)["finetune"] is True
    assert {(member.input_size, member.resize) for member in members(config_of(committee))} == {(224, 256)}


def test_the_sixteen_resnets_are_the_family_of_the_committee() -> None:
    sixteen = config_of("imagenet81")["family"]
    assert len(set(sixteen)) == 16
    assert set(sixteen) < set(names("imagenet81"))
    assert {entries()[name].family for name in sixteen} == {"ResNet", "SE_ResNet"}
    left = set(names("imagenet81")) - set(sixteen)
    assert not any(entries()[name].family in ("ResNet", "SE_ResNet") for name in left)


def test_transformers_stand_beside_the_convolutional_networks() -> None:
    eight = list(specifications({**config_of("vit8"), "catalogue": None}))
    assert len(eight) == 8
    assert list(specifications(config_of("vit8"))) == names("imagenet81") + eight
    assert (CONF / "vit8.yaml").read_text().startswith("# 81 + 8:")  # what `xconsensus ls` shows
    spec = specifications(config_of("vit8"))
    added = members_of({name: spec[name] for name in eight}, defaults={}, size=64, resize=64)
    assert {member.input_size for member in added} == {224}
    for member in added:
        with torch.device("meta"), torch.inference_mode():
            assert build(replace(member, pretrained=False), 7)(torch.empty(1, 3, 224, 224)).shape == (1, 7)


# --- choosing ---


def test_without_substitutes_those_and_only_those_are_left_out() -> None:
    for committee in COMMITTEES:
        kept = list(specifications({"catalogue": committee, "weights": "libraries", "substitutes": False}))
        assert kept == [name for name in names(committee) if entries()[name].fidelity != "substitute"]
        authors = list(specifications({"catalogue": committee, "substitutes": False}))
        assert authors == [name for name in names(committee) if not name.startswith("AutoDL")]


def test_a_draw_is_of_the_pool_in_its_order_and_follows_from_the_seed() -> None:
    pool = names("cub85")
    draws = [list(specifications({"catalogue": "cub85", "draw": 20, "draw_seed": seed})) for seed in range(5)]
    for seed, drawn in enumerate(draws):
        assert drawn == [name for name in pool if name in drawn]
        assert len(drawn) == 20
        reordered = {"catalogue": pool[::-1], "draw": 20, "draw_seed": seed}
        assert set(specifications(reordered)) == set(drawn)
    assert len(set(map(tuple, draws))) == 5


def test_every_member_is_drawn_about_equally_often() -> None:
    drawn = Counter(
        name for seed in range(400) for name in specifications({"catalogue": "cub85", "draw": 20, "draw_seed": seed})
    )
    expected, deviation = 400 * 20 / 85, (400 * 20 / 85 * (65 / 85)) ** 0.5
    assert all(abs(drawn[name] - expected) < 4.5 * deviation for name in names("cub85"))


def test_a_draw_leaves_substitutes_out_before_and_adds_own_members_after() -> None:
    own = {"mine": {"library": "timm", "model": "test_resnet"}}
    pool = {"catalogue": "cub85", "weights": "libraries", "substitutes": False}
    found = specifications({**pool, "draw": 20, "members": own})
    assert list(found)[-1] == "mine"
    assert len(found) == 21
    assert all(entries()[name].fidelity != "substitute" for name in list(found)[:-1])


def test_own_keys_change_a_member_of_the_catalogue() -> None:
    own = {"ResNet50": {"pretrained": "gluon_in1k"}, "AlexNet": None}
    found = specifications({"catalogue": ["AlexNet", "ResNet50"], "members": own})
    plain = specifications({"catalogue": ["AlexNet", "ResNet50"]})
    assert found == {**plain, "ResNet50": {**plain["ResNet50"], "pretrained": "gluon_in1k"}}


def test_a_committee_without_a_catalogue_is_its_own_members() -> None:
    assert specifications({"members": {"a": {"model": "b"}}}) == {"a": {"model": "b"}}
    assert specifications({"catalogue": None, "members": None}) == {}


@pytest.mark.parametrize(
    ("committee", "culprit"),
    [
        ({"catalogue": "imagenet80"}, "catalogue=imagenet80 .*imagenet81, cub85"),
        ({"catalogue": ["ResNet51"]}, "'ResNet51'; nearest: .*ResNet50"),
        ({"catalogue": ["consensus"]}, "'consensus'"),
        ({"catalogue": 3}, "catalogue=3 is neither"),
        ({"catalogue": "imagenet81", "draw": 82}, "draw=82: .* 81 members"),
        (
            {"catalogue": "imagenet81", "weights": "libraries", "draw": 60, "substitutes": False},
            "draw=60: .* 53 members",
        ),
        ({"catalogue": "imagenet81", "draw": 81, "substitutes": False}, "draw=81: .* 79 members"),
        ({"catalogue": "imagenet81", "weights": "mine"}, "committee.weights=mine is none of authors, libraries"),
        ({"catalogue": "imagenet81", "release": "2.6"}, "committee.release=2.6 is none of 2.x, 1.8"),
        ({"catalogue": "imagenet81", "draw": 0}, "draw=0"),
        ({"catalogue": "imagenet81", "draw": "many"}, "draw=many is not a whole number"),
        ({"draw": 2, "members": {"a": {}}}, "draw=2: .* 0 members"),
        ({"catalogue": "cub85", "substitutes": "no"}, "substitutes=no is not true or false"),
    ],
)
def test_a_wrong_choice_is_named(committee: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        specifications(committee)


# --- in a config ---


def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        return compose("score", overrides=[*overrides])


def opened(tmp_path: Path, *overrides: str) -> Experiment:
    return open_experiment(plain(composed("committee=tiny", f"output_dir={tmp_path}", *overrides)))


@pytest.mark.parametrize("committee", SIZES)
def test_a_committee_brings_its_data_set(committee: str) -> None:
    config = composed(f"committee={committee}", "dataset.root=here")
    found = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(found, dict)
    others = {"cub85": "cub200", "cars20": "cars196", "flowers20": "flowers102", "foods20": "food101"}
    assert found["dataset"]["name"] == others.get(committee, "imagenet")
    assert found["committee"]["finetune"] == (committee in others)
    assert len(specifications(found["committee"])) == SIZES[committee]


def test_an_experiment_reads_catalogue_draw_and_scored(tmp_path: Path) -> None:
    chosen = opened(tmp_path, "committee.catalogue=[VGG16,AlexNet]", "committee.scored=[AlexNet,resnet10_w8]")
    found = [member.name for member in chosen.members]
    assert found[:3] == ["VGG16", "AlexNet", "resnet10_w8"]
    assert chosen.shown_members == ["AlexNet", "resnet10_w8"]
    assert [member.name for member in chosen.own_members] == found
    assert opened(tmp_path).shown_members == [member.name for member in opened(tmp_path).members]


@pytest.mark.parametrize("key", ["only", "scored"])
def test_a_name_that_the_committee_lacks_is_named_with_the_nearest(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=rf"committee\.{key}: tiny has no member resnet10_w9; nearest: .*resnet10_w8"):
        opened(tmp_path, f"committee.{key}=[resnet10_w9]")


def test_ls_members_shows_what_stands_for_a_model() -> None:
    lines = listing(["members"]).splitlines()
    for committee, size in SIZES.items():
        start = lines.index(f"members of {committee} ({size})")
        rows = {line.split()[0]: line for line in lines[start + 2 : start + 2 + size]}
        assert list(rows) == list(specifications(config_of(committee)))
        for name in rows.keys() & entries().keys():
            entry = entries()[name]
            size = (config_of(committee).get("member_defaults") or {}).get("input_size", entry.input_size)
            seen = f", sees {size}x{size}" if size != 224 else ""
            shown = f"{entry.library} {entry.model} {entry.weights} ({entry.fidelity}{seen})"
            own = "" if name.startswith("AutoDL") else f"paddle {name} (authors) | "
            assert " ".join(rows[name].split()[1:]) == f"{entry.family} {own}{shown}"
