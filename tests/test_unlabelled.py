"""Photographs without labels: a flat folder, classes by the members' own logits, the class of the ensemble."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GRIDS, Project
from PIL import Image
from safetensors.torch import save_file

from xconsensus.datasets.imagefolder import ImageFolder, imagenet_wnids
from xconsensus.errors import InputError
from xconsensus.members.member import members_of
from xconsensus.members.own_classes import own_classes
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensors

PLAIN = ("explainer=smoothgrad", "explainer.noise=0", "explainer.samples=1")  # the gradient: no draw in it


def flat(project: Project, classes: int = 5) -> Project:
    """The photographs in one folder, without masks, and members with files of weights of so many classes."""
    images = project.folder / "images"
    for path in sorted(images.glob("*/*.png")):
        path.rename(images / f"{path.parent.name}{path.name}")
    for below in [each for each in images.iterdir() if each.is_dir()]:
        below.rmdir()
    text = GRIDS.format(folder=project.folder / "models")
    for seed, name in enumerate(("first", "second", "third", "fourth"), 1):
        weight = 0.1 * torch.randn(classes, 3 * 8**2, generator=torch.Generator().manual_seed(seed))
        save_file({"weight": weight}, project.folder / f"models/{name}.safetensors")
        text = text.replace(f"{{seed: {seed}}}", f"{{seed: {seed}}}, weights: {name}.safetensors")
    (project.folder / "conf/committee/grids.yaml").write_text(text)
    arguments = [a for a in project.arguments if not a.startswith(("dataset.masks", "explain.only_correct"))]
    return replace(project, arguments=tuple(arguments))


def test_a_flat_folder_is_explained_voted_on_and_scored(photographs: Project) -> None:
    project = flat(photographs)
    said = "".join(project.done(stage).err for stage in ("finetune", "explain", "vote", "score"))
    assert "labels of its 6 photographs are unknown" in said
    assert "explain.only_correct=all: labels are unknown, so none is asked to be right" in said
    probabilities = read_tensors(project.outputs / "pets/predictions/test/first.safetensors")
    assert probabilities["probabilities"].shape == (6, 5)
    assert set(probabilities["labels"].tolist()) == {-1}
    members = pd.read_csv(project.outputs / "pets/scores/grids/lime/members.csv")
    assert members["accuracy"].isna().all()
    assert np.isfinite(members["consensus_score"][:4]).all()
    project.done("status", "explainers=[lime]")


def test_members_of_different_numbers_of_classes_are_named(photographs: Project) -> None:
    project = flat(photographs)
    save_file({"weight": torch.randn(7, 3 * 8**2)}, project.folder / "models/third.safetensors")
    failed = project.run("finetune")
    assert failed.code == 2
    assert "members first and third know 5 and 7 classes" in failed.errors[0]
    assert project.run("finetune", "dataset.classes=[a,b,c,d,e]").code == 2  # and the file that does not fit is named
    shutil.rmtree(project.outputs, ignore_errors=True)
    assert project.done("finetune", "dataset.classes=[a,b,c,d,e]", "committee.only=[first,second,fourth]").code == 0


def test_1000_logits_are_imagenets_classes(photographs: Project) -> None:
    project = flat(photographs, 1000)
    dataset = ImageFolder(root=f"{project.folder}/images", splits={"test": "."})
    assert not dataset.classes
    dataset.take_classes(1000)
    assert list(dataset.classes) == imagenet_wnids()
    for stage in ("finetune", "explain"):
        assert "taken for ImageNet's classes" in project.done(stage).err


def test_a_changed_member_is_counted_anew(photographs: Project) -> None:
    project = flat(photographs)
    project.done("finetune")
    for name in ("first", "second", "third", "fourth"):
        save_file({"weight": torch.randn(9, 3 * 8**2)}, project.folder / f"models/{name}.safetensors")
    project.done("finetune", "overwrite=true")
    assert read_tensors(project.outputs / "pets/predictions/test/first.safetensors")["probabilities"].shape == (6, 9)


@pytest.mark.parametrize(
    ("spec", "state", "classes"),
    [
        ({"library": "torchvision", "model": "squeezenet1_1"}, "classifier.1", 13),
        ({"library": "timm", "model": "resnet10t"}, "fc", 21),
        ({"library": "timm", "model": "resnet10t", "pretrained": "c3_in1k"}, None, 1000),
    ],
)
def test_a_library_s_head_is_counted(tmp_path: Path, spec: dict[str, object], state: str | None, classes: int) -> None:
    if state:
        from xconsensus.members.weights import build

        (bare,) = members_of({"m": spec | {"pretrained": False}}, defaults={}, size=64, resize=64, trained=True)
        save_file(build(bare, classes).state_dict(), tmp_path / "m.safetensors")
        spec = spec | {"weights": "m.safetensors"}
    (member,) = members_of({"m": spec}, defaults={}, size=64, resize=64, weights_dir=str(tmp_path))
    assert own_classes(member) == classes


def test_own_code_is_counted_by_its_default_or_its_output(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Default(torch.nn.Module):\n"
        "    def __init__(self, num_classes=6):\n"
        "        super().__init__(); self.n = num_classes\n"
        "    def forward(self, x):\n"
        "        return {'logits': x.mean((1, 2, 3))[:, None].repeat(1, self.n)}\n"
        "class Fixed(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.mean((1, 2, 3))[:, None].repeat(1, 4)\n"
        "class Asks(Default):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(num_classes)\n"
    )
    specs = {name: {"library": "module", "model": f"net.py:{name}"} for name in ("Default", "Fixed", "Asks")}
    members = members_of(specs, defaults={}, size=16, resize=16, weights_dir=str(tmp_path))
    assert [own_classes(member) for member in members[:2]] == [6, 4]
    with pytest.raises(InputError, match=r"member Asks: .*dataset\.classes"):
        own_classes(members[2])


def test_unlabelled_photographs_train_nobody(photographs: Project) -> None:
    failed = flat(photographs).run("finetune", "committee.finetune=true")
    assert failed.code == 2
    assert "committee.finetune=false" in failed.errors[0]


def test_masks_beside_a_flat_folder_are_no_photographs(photographs: Project) -> None:
    project = flat(photographs)
    images = project.folder / "images"
    Image.fromarray(np.uint8(np.eye(48, 64) * 255)).save(images / "cat0_mask.png")
    (images / "masks").mkdir()
    (images / "cat0_mask.png").rename(images / "masks/cat0.png")
    (images / "notes.txt").write_text("")
    found = ImageFolder(root=str(images), splits={"test": "."}).records("test")
    assert [record.image_id for record in found] == [f"{name}{n}.png" for name in ("cat", "dog") for n in range(3)]
    assert {record.label for record in found} == {-1}


def test_the_folder_of_a_given_class_is_one_level_too_low(photographs: Project) -> None:
    root = photographs.folder / "images"
    with pytest.raises(InputError, match=rf"one level too low\? Give dataset\.root={root}$"):
        ImageFolder(root=f"{root}/cat", splits={"test": "."}, classes=["cat", "dog"]).records("test")


def test_the_ensemble_s_class_is_explained_with_every_member(photographs: Project) -> None:
    project = flat(photographs)
    for stage in ("finetune", "explain"):
        project.done(stage, *PLAIN, "explainer.target=ensemble")
    predictions = project.outputs / "pets/predictions/test"
    files = [predictions / f"{name}.safetensors" for name in ("first", "second", "third", "fourth")]
    mean = torch.stack([read_tensors(file)["probabilities"] for file in files]).mean(0)
    agreed = dict(zip(read_header(files[0])["ids"], mean.argmax(1).tolist(), strict=True))

    folder = project.outputs / "pets/explanations/smoothgrad/first"
    by_ensemble = Shards.open(folder)
    found = {each: (by_ensemble.values(each), by_ensemble.number(each, "predicted")) for each in agreed}
    shutil.rmtree(project.outputs / "pets/explanations")
    project.done("explain", *PLAIN)
    by_member = Shards.open(folder)
    same = {each: torch.allclose(found[each][0], by_member.values(each), rtol=1e-3, atol=0) for each in agreed}
    assert same == {each: found[each][1] == label for each, label in agreed.items()}
    assert {*same.values()} == {True, False}


def test_another_class_of_the_ensemble_is_noticed(photographs: Project) -> None:
    project = flat(photographs)
    arguments = (*PLAIN, "explainer.target=ensemble")
    for stage in ("finetune", "explain"):
        project.done(stage, *arguments)
    ensemble = [f"committee.members.{name}={{kwargs:{{seed:{seed}}}}}" for seed, name in enumerate("wxyz", 11)]
    project.done("finetune", *arguments, *(f"++{each}" for each in ensemble), "dataset.classes=[a,b,c,d,e]")
    failed = project.run("explain", *arguments, *(f"++{each}" for each in ensemble), "dataset.classes=[a,b,c,d,e]")
    assert failed.code == 2
    assert "class to explain was another" in failed.err
