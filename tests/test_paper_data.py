"""What the paper's experiments run on: images, training data, input sizes, and what right is judged on; data drawn in
the paper's layouts, networks of a few weights.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Outcome, Project, paint, xconsensus
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy.io import savemat

from xconsensus import datasets
from xconsensus.cli.listing import listing
from xconsensus.compat import torchvision
from xconsensus.datasets.imagefolder import imagenet_wnids
from xconsensus.errors import InputError
from xconsensus.keys.schema import Finetune, keys_of
from xconsensus.members.catalogue import entries, specifications
from xconsensus.members.member import Member, members_of
from xconsensus.members.upstream import preprocessing
from xconsensus.store.files import read_csv, read_json, read_settings, write_csv, write_json

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = ("imagenet", "cub", "cars", "flowers", "foods")
CLASSES = {"imagenet": 1000, "cub": 200, "cars": 196, "flowers": 102, "foods": 101}

READERS = """\
import torch
from torch import nn


class Reader(nn.Module):
    '''Reads the label off an image of 16 cells, black or white, the first ten its bits; wrong about every nth one.'''

    def __init__(self, num_classes=1000, blind=0):
        super().__init__()
        bits = torch.arange(num_classes)[:, None] >> torch.arange(10) & 1
        codes = 2.0 * bits - 1
        if blind:
            codes[::blind] *= -1
        self.codes = nn.Parameter(codes)

    def forward(self, inputs):
        cells = nn.functional.adaptive_avg_pool2d(inputs.mean(1, keepdim=True), 4).flatten(1)
        return cells[:, :10] @ self.codes.T


class Bright(nn.Module):
    '''Tells images that are brighter than a threshold from those that are not.'''

    def __init__(self, num_classes=2, threshold=0.0):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, inputs):
        above = inputs.mean((1, 2, 3)) - self.threshold
        return torch.stack([-above, above], 1)
"""


def project(folder: Path, members: str, *arguments: str) -> Project:
    """A committee ``mine`` of own networks, and images below folder/images."""
    (folder / "models").mkdir()
    (folder / "models/nets.py").write_text(READERS)
    (folder / "conf/committee").mkdir(parents=True)
    head = f"name: mine\nfinetune: false\nweights_dir: {folder}/models\nmembers:\n"
    (folder / "conf/committee/mine.yaml").write_text(head + members)
    own = ("--config-dir", f"{folder}/conf", "committee=mine", f"output_dir={folder}/outputs", "threads=1")
    small = ("explain.precision=float32", "explainer.samples=8", "score.bootstrap=20", "plot.gallery=1")
    return Project(folder, (*own, *small, *arguments))


def code(label: int) -> NDArray[np.uint8]:
    """The image (32, 32, 3) that `Reader` reads a label off."""
    bits = np.array([label >> place & 1 for place in range(10)] + [0, 1, 1, 0, 1, 0])
    return (255 * bits).astype(np.uint8).reshape(4, 4, 1).repeat(8, 0).repeat(8, 1).repeat(3, 2)


def readers(folder: Path, names: list[str], *arguments: str, blind: int = 0) -> Project:
    """An image of each class, named so, read by two networks, of which one may be blind to every nth class."""
    for label, name in enumerate(names):
        paint(folder / f"images/{name}/a.png", code(label))
    members = "".join(
        f"  {name}: {{library: module, model: 'nets.py:Reader', kwargs: {{blind: {n}}}}}\n"
        for name, n in (("one", 0), ("two", blind))
    )
    return project(folder, members, f"dataset.root={folder}/images", "dataset.resize=32", "dataset.size=32", *arguments)


def labels_of(found: Project, dataset: str) -> list[int]:
    return list(read_csv(found.outputs / dataset / "images/mine.csv")["label"])


# --- images ---


def test_the_paper_s_imagenet_explains_as_many_classes_as_images(tmp_path: Path) -> None:
    root = f"root={tmp_path}"
    imagenet = readers(tmp_path, [*imagenet_wnids()], "experiment=imagenet", "dataset=imagenet", root)
    imagenet = Project(tmp_path, tuple(each for each in imagenet.arguments if not each.startswith("dataset.root=")))
    (tmp_path / "images").rename(tmp_path / "imagenet")
    imagenet.done("finetune")
    said = imagenet.done("explain", "dry_run=true")
    images = OmegaConf.load(CONF / "experiment/imagenet.yaml").explain.images
    assert f"{images} images of {images} classes to explain, of 1000 that remain of 1000" in said.err


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_of_the_paper_explains_every_class_alike(experiment: str) -> None:
    images = OmegaConf.load(CONF / f"experiment/{experiment}.yaml").explain.images
    assert images % CLASSES[experiment] == 0 or CLASSES[experiment] % images == 0


@pytest.fixture
def hundred(tmp_path: Path) -> Project:
    """101 classes of an image each, of which all are read rightly, five of them explained."""
    names = [f"{label:03}" for label in range(101)]
    found = readers(tmp_path, names, "dataset=imagefolder", "dataset.name=own", "explain.images=5")
    found.done("finetune")
    found.done("explain")
    return found


def as_of_before(found: Project, labels: list[int]) -> Path:
    """Make the table of images that of a version whose first images were of the first labels."""
    path = found.outputs / "own/images/mine.csv"
    settings = {key: value for key, value in read_settings(path).items() if key != "rule"}
    rows = [(f"{label:03}/a.png", f"{label:03}/a.png", label) for label in labels]
    write_csv(path, pd.DataFrame(rows, columns=["image_id", "path", "label"]), settings)
    return path


def test_one_s_own_data_are_explained_all_over_and_a_table_of_the_first_labels_does_not_count(hundred: Project) -> None:
    assert labels_of(hundred, "own") == [10, 30, 50, 70, 90]
    before = hundred.files()
    hundred.done("explain")
    assert hundred.files() == before
    path = as_of_before(hundred, [0, 1, 2, 3, 4])
    refused = hundred.run("explain")
    assert refused.code == 2
    assert str(path) in refused.errors[0]
    assert "rule is 1 there, 2 now: its 5 images are of the first classes alone, up to label 4" in refused.errors[0]
    assert "explain overwrite=true" in refused.errors[0]
    hundred.done("explain", "overwrite=true")
    assert hundred.files().keys() == before.keys()
    assert labels_of(hundred, "own") == [10, 30, 50, 70, 90]


def test_a_table_of_before_is_valid_where_both_rules_choose_alike(hundred: Project) -> None:
    for settings in (("explain.images=101",), ("explain.images=5", "explain.sample=random")):
        hundred.done("explain", *settings, "overwrite=true")
        path = hundred.outputs / "own/images/mine.csv"
        assert "rule" not in read_settings(path)
        before = path.read_bytes()
        hundred.done("explain", *settings)
        assert path.read_bytes() == before


def test_too_few_images_that_all_get_right_are_told_before_they_are_explained(tmp_path: Path) -> None:
    names = [f"{label:03}" for label in range(100)]
    few = readers(tmp_path, names, "dataset=imagefolder", "dataset.name=own", "explain.images=80", blind=2)
    few.done("finetune")
    said = few.done("explain", "dry_run=true").err
    assert (
        "all 2 members are right about 50 images, enough for 50: explain.only_correct=any would give 80, of 100" in said
    )
    assert "(two is right least often)" in said
    assert said.index("any would give") < said.index("explain would make")
    assert "any would give" not in few.done("explain", "dry_run=true", "explain.images=50").err
    few.done("explain", "explain.only_correct=any", "dry_run=true")


def test_no_image_that_all_get_right_says_what_any_gives(tmp_path: Path) -> None:
    none = readers(tmp_path, ["a", "b", "c"], "dataset=imagefolder", "dataset.name=own", blind=1)
    none.done("finetune")
    assert "by all of the 2 members, 3 by any: set explain.only_correct=any" in none.run("explain").errors[0]


# --- training ---


def composed(*overrides: str) -> Mapping[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        found = OmegaConf.to_container(compose("run", overrides=[*overrides]), resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def test_flowers_train_on_the_official_training_split_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"trnid": 2, "valid": 2, "tstid": 3}  # images a class
    labels, numbers, ids = [], 0, {}
    for part, count in parts.items():
        ids[part] = np.arange(numbers + 1, numbers + 102 * count + 1)
        labels += [*range(1, 103)] * count
        numbers += 102 * count
    for number in range(1, numbers + 1):
        paint(tmp_path / f"flowers-102/jpg/image_{number:05}.jpg", np.zeros((2, 2, 3), np.uint8))
    savemat(tmp_path / "flowers-102/imagelabels.mat", {"labels": np.array([labels])})
    savemat(tmp_path / "flowers-102/setid.mat", {name: each[None] for name, each in ids.items()})
    flowers = torchvision.datasets.Flowers102
    sums = {
        key: (name, hashlib.md5((tmp_path / "flowers-102" / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(flowers, "_file_dict", {**flowers._file_dict, **sums})
    group = composed("dataset=flowers102", f"dataset.root={tmp_path}", "dataset.masks=null")["dataset"]
    dataset = datasets.load({key: value for key, value in group.items() if key != "white"})
    found = {split: dataset.records(split) for split in ("train", "test")}
    for split, part in (("train", "trnid"), ("test", "tstid")):
        assert [int(record.image_id[-9:-4]) for record in found[split]] == ids[part].tolist()
    assert np.bincount([record.label for record in found["train"]]).tolist() == [2] * 102


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_an_experiment_that_trains_says_its_epochs(experiment: str) -> None:
    if composed(f"experiment={experiment}")["committee"]["finetune"]:
        own = OmegaConf.load(CONF / f"experiment/{experiment}.yaml")
        if "finetune" not in own:  # it goes on from another, whose members these are
            own = OmegaConf.load(CONF / f"experiment/{own.defaults[0]}.yaml")
        assert own.finetune.epochs > 0


def test_what_training_has_and_the_paper_does_not_is_marked() -> None:
    """The paper (4.1.2) has SGD with momentum, learning rate, batch size and crops, and no more."""
    known = keys_of(Finetune)
    for key, ours in (
        ("epochs", ""),
        ("learning_rate", "cosine"),
        ("weight_decay", ""),
        ("flip", ""),
        ("precision", "bf"),
    ):
        sentence = known[key][1].metadata["sentence"]
        assert ours in sentence
        assert "not in the paper" in sentence


# --- input size ---


def imagenet81(input_size: int | None, weights: str = "authors", **own: Any) -> list[Member]:
    given = specifications({"catalogue": "imagenet81", "weights": weights, "members": own})
    return members_of(given, defaults={}, size=224, resize=256, known=[*given], input_size=input_size)


def test_members_that_see_other_sizes_than_the_paper_s_are_marked() -> None:
    others = {"ResNet200_vd": 256, "MobileNetV1_x0_25": 160, "ShuffleNetV2_x0_25": 160, "ShuffleNetV2_x0_33": 160}
    of_libraries = imagenet81(None, weights="libraries")
    assert {member.name: member.input_size for member in of_libraries if member.input_size != 224} == others
    assert {member.input_size for member in imagenet81(None)} == {224}
    lines = listing(["members"]).split("members of imagenet81")[1].split("members of ")[0].splitlines()[1:]
    marked = {line.split()[0]: line for line in lines if "sees" in line}
    assert {name: int(line.rsplit("x", 1)[1].rstrip(")")) for name, line in marked.items()} == others
    assert "sees" not in listing(["members"]).split("members of cub85")[1].split("members of ")[0]


def test_an_input_size_of_the_committee_is_everybody_s_and_keeps_the_share_that_is_cut() -> None:
    before = {member.name: member for member in imagenet81(None, weights="libraries")}
    for member in imagenet81(224, weights="libraries"):
        own = before[member.name]
        assert member.input_size == 224
        assert member.resize / 224 == pytest.approx(own.resize / own.input_size, abs=0.5 / 224)
        if own.input_size == 224:
            assert member == own
        entry = entries()[member.name]
        share = preprocessing(member.name, entry.library, entry.model, entry.weights)
        assert abs(member.resize - math.floor(224 * share["resize"] / share["input_size"])) <= 1


def test_an_input_size_that_contradicts_or_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"AlexNet: input_size=200 of its own, and committee\.input_size=224"):
        imagenet81(224, AlexNet={"input_size": 200})
    assert imagenet81(224, AlexNet={"input_size": 224})[0].input_size == 224
    for size, words in (("0", "less than 1"), ("5000", "more than 4096"), ("big", "not a whole number")):
        refused = xconsensus("finetune", f"committee.input_size={size}", f"output_dir={tmp_path}", "dry_run=true")
        assert refused.code == 2
        assert "committee.input_size" in refused.errors[0]
        assert words in refused.errors[0]


# --- what right is judged on ---


def wide(folder: Path) -> Project:
    """Members that see the whole image, of which the centre is explained; the last image's centre is darker."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 40)):
        for number in range(3):
            pixels = rng.integers(level - 40, level + 40, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
            if (name, number) == ("bright", 2):
                pixels[16:48, 16:48] -= 100  # mid-grey: above the threshold of one member alone
            paint(folder / f"images/{name}/{number}.png", pixels.astype(np.uint8))
            mask = np.zeros((64, 64), np.uint8)
            mask[20:40, 20:40] = 255
            paint(folder / f"masks/{name}/{number}.png", mask)
    members = "".join(
        f"  {name}: {{library: module, model: 'nets.py:Bright', family: {family}, input_size: 64, resize: 64,"
        f" kwargs: {{threshold: {threshold}}}}}\n"
        for name, family, threshold in (
            ("low", "a", -0.8),
            ("high", "a", 0.4),
            ("higher", "b", 0.6),
            ("lower", "a", -0.9),
            ("lowest", "a", -1.0),
        )
    )
    keys = (f"dataset.root={folder}/images", f"dataset.masks={folder}/masks", "dataset.resize=64", "dataset.size=32")
    classes = ("dataset.classes=[dark,bright]", "dataset.name=own", "dataset=imagefolder", "plot.family=a")
    return project(folder, members, *keys, *classes, "explain.only_correct=all", "plot.extras=[1,1]", "plot.trials=3")


def scored(found: Project, *arguments: str) -> tuple[Outcome, pd.DataFrame, pd.DataFrame]:
    outcome = found.done("score", *arguments)
    members, images = (
        read_csv(found.outputs / "own/scores/mine/lime" / f"{name}.csv") for name in ("members", "images")
    )
    return outcome, members.set_index("member"), images


def explained(found: Project, *arguments: str) -> None:
    for stage in ("finetune", "explain", "vote"):
        found.done(stage, *arguments)


def test_images_explained_as_another_class_are_counted_and_left_out_of_everybody_s_scores(tmp_path: Path) -> None:
    found = wide(tmp_path)
    explained(found)
    outcome, members, images = scored(found)
    assert "1 of 6 images left out of the scores" in outcome.err
    assert "explained, by high of 1, higher of 1" in outcome.err
    assert "scores of 5 members on 5 images" in outcome.err
    assert members["accuracy"].iloc[:-1].tolist() == [1.0] * 5
    assert members["explained_right"].to_dict() == pytest.approx(
        {"low": 1, "high": 5 / 6, "higher": 5 / 6, "lower": 1, "lowest": 1, "consensus": math.nan}, nan_ok=True
    )
    kept = {f"{name}/{number}.png" for name in ("bright", "dark") for number in range(3)} - {"bright/2.png"}
    assert {*images["image_id"]} == kept
    for table, column in (("similarity", "consensus_score"), ("average_precision", "mean_average_precision")):
        expected = images.groupby("member")[table].mean()
        assert members[column].to_dict() == pytest.approx(expected[members.index].to_dict(), abs=1e-12, nan_ok=True)
    growing = read_csv(found.outputs / "own/scores/mine/lime/growing.csv")
    everybody = growing[growing["size"] == 5] if "size" in growing else growing.tail(1)
    assert everybody.select_dtypes("number").iloc[-1, -1] == pytest.approx(
        members["mean_average_precision"]["consensus"], abs=1e-6
    )
    found.done("plot", "explainers=[lime]", "figure=fig03", "plot.gallery=9")
    assert len([*(found.outputs / "own/figures/mine").glob("fig03*.png")]) == 5


def test_an_image_is_counted_where_members_need_not_all_be_right(tmp_path: Path) -> None:
    found, any_right = wide(tmp_path), ("explain.only_correct=any",)
    explained(found, *any_right)
    outcome, members, images = scored(found, *any_right)
    assert "left out of the scores" not in outcome.err
    assert images["image_id"].nunique() == 6
    assert members["explained_right"]["high"] == pytest.approx(5 / 6)


def test_scores_that_counted_such_an_image_are_made_again_and_others_are_not(tmp_path: Path) -> None:
    found = wide(tmp_path)
    explained(found)
    found.done("score")
    folder = found.outputs / "own/scores/mine/lime"

    def before_the_rule() -> None:
        inputs = read_json(folder / "inputs.json")
        del inputs["other_class"]
        write_json(folder / "inputs.json", inputs)

    before_the_rule()
    refused = found.run("plot", "explainers=[lime]", "figure=correlations")
    assert refused.code == 2
    assert "another class than the label are left out now, as bright/2.png by high" in refused.errors[0]
    (folder / "members.csv").touch()
    found.done("score")
    assert "other_class" in read_json(folder / "inputs.json")
    found.done("plot", "explainers=[lime]", "figure=correlations")

    paint(
        tmp_path / "images/bright/2.png", np.full((64, 64, 3), 200, np.uint8) - np.arange(64, dtype=np.uint8)[:, None]
    )
    explained(found, "overwrite=true")
    found.done("score", "overwrite=true")
    before_the_rule()
    tables = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "inputs.json"}
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    found.done("plot", "explainers=[lime]", "figure=correlations")
    found.done("score")
    assert {name for name, time in times.items() if (folder / name).stat().st_mtime_ns != time} == {"inputs.json"}
    assert {name: (folder / name).read_bytes() for name in tables} == tables


def test_a_committee_of_which_some_member_is_wrong_about_every_crop_is_named(tmp_path: Path) -> None:
    found = wide(tmp_path)
    for number in range(2):
        (tmp_path / f"images/bright/{number}.png").unlink()
    for number in range(3):
        (tmp_path / f"images/dark/{number}.png").unlink()
        paint(tmp_path / f"images/dark/{number}.png", np.full((64, 64, 3), 40, np.uint8))
        pixels = np.full((64, 64, 3), 20, np.uint8)
        pixels[20:44, 20:44] = 255
        paint(tmp_path / f"images/dark/{number}.png", pixels)
    explained(found)
    refused = found.run("score")
    assert refused.code == 2
    assert "on the explained crop some member is wrong about each of the 4 images" in refused.errors[0]
    assert "explain.only_correct=any" in refused.errors[0]


def test_members_that_see_other_sizes_stand_so_in_the_tables(tmp_path: Path) -> None:
    found = wide(tmp_path)
    yaml = tmp_path / "conf/committee/mine.yaml"
    yaml.write_text(
        yaml.read_text().replace(
            "input_size: 64, resize: 64, kwargs: {threshold: -1.0}",
            "input_size: 32, resize: 32, kwargs: {threshold: -1.0}",
        )
    )
    explained(found)
    _, members, _ = scored(found)
    assert members["input_size"].to_dict() == pytest.approx(
        {"low": 64, "high": 64, "higher": 64, "lower": 64, "lowest": 32, "consensus": math.nan}, nan_ok=True
    )
    found.done("plot", "explainers=[lime]", "figure=table2")
    table = read_csv(found.outputs / "own/tables/mine/table2.csv").set_index("member")
    assert table["input_size"]["lowest"] == 32
