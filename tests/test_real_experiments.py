"""The experiments on real photographs, on a handful of their images; skipped where shared/real is absent."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import done
from omegaconf import OmegaConf
from test_real import REAL, accuracies, published

from xconsensus.store.tensors import read_header

pytestmark = pytest.mark.skipif(not (REAL / "models").is_dir(), reason="no real photographs in ../shared/real")

FEW = ("progress=off", "explain.images=2", "explain.only_correct=none", "score.bootstrap=20", "plot.trials=2")
SMALL = (
    "finetune.epochs=1",
    "dataset.first_classes=2",
    "explainers.lime.samples=16",
    "explainers.smoothgrad.samples=2",
)


def members(committee: str) -> dict[str, dict[str, object]]:
    file = Path(__file__).parents[1] / f"conf/committee/{committee}.yaml"
    loaded: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return dict(loaded["members"])


def test_the_fifteen_are_those_of_the_folder_with_its_families() -> None:
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (?:extra_archs|timm|torchvision)", (REAL / "README.md").read_text(), re.M)
    assert {name: each["family"] for name, each in members("imagenet15").items()} == dict(rows)
    assert len(rows) == 15


def test_the_committee_that_is_trained_has_25_members_of_7_families_from_96_to_260_pixels() -> None:
    found = members("sizes30")
    sizes = [int(str(each["input_size"])) for each in found.values()]
    assert len(found) >= 25
    assert len({each["family"] for each in found.values()}) == 7
    assert (min(sizes), max(sizes)) == (96, 260)
    assert all(name.endswith(f"_{size}") for name, size in zip(found, sizes, strict=True))
    assert all((REAL / f"models/{each['weights']}").is_file() for each in found.values())


def run(experiment: str, outputs: Path, *arguments: str) -> None:
    done("run", f"experiment={experiment}", f"root={REAL}", f"output_dir={outputs}", *FEW, *arguments)


def test_fifteen_pretrained_members_on_imagenet(tmp_path: Path) -> None:
    few = ("fdmobilenet_025_224", "menet_108_8x1_g3")
    only = [f"~committee.members.{name}" for name in members("imagenet15") if name not in few]
    run("imagenet_sample", tmp_path, *only, *SMALL[2:], "plot.figures=[fig05]")
    found = accuracies(tmp_path / "imagenet_sample/scores/imagenet15/lime/members.csv")
    for name in few:
        assert found[name] == pytest.approx(published(name), abs=1)


@pytest.mark.parametrize(
    ("experiment", "few", "ways"),
    [
        (
            "birds50",
            ("mobilenet_v1_025_96", "squeezenet1_1_128"),
            ("batch normalisation put back", "linear probe first"),
        ),
        (
            "flowers17",
            ("fdmobilenet_025_128", "efficientnet_lite0_96"),
            ("batch normalisation put back", "own batch normalisation"),
        ),
    ],
)
def test_a_trained_experiment(tmp_path: Path, experiment: str, few: tuple[str, ...], ways: tuple[str, ...]) -> None:
    only = [f"~committee.members.{name}" for name in members("sizes30") if name not in few]
    run(experiment, tmp_path, *only, *SMALL, "plot.figures=[fig04,fig08,fig14]")
    root = tmp_path / experiment
    for name, way in zip(few, ways, strict=True):
        assert read_header(root / f"weights/{name}.safetensors")["way"] == way
    scores = root / "scores/sizes30/lime"
    found = pd.read_csv(scores / "members.csv")
    assert list(found["prepared"][:2]) == list(ways)
    assert found["mean_average_precision"].between(0, 1).all()
    boxes = experiment == "birds50"
    for table in ("members", "images", "correlations", "growing", "rules", "baselines"):
        assert (set(pd.read_csv(scores / f"{table}.csv").get("masks", [])) == {"boxes"}) is boxes, table
    for figure in ("fig04", "fig08", "fig14"):
        assert ("boxes" in (root / f"figures/sizes30/{figure}.txt").read_text()) is boxes, figure
    for table in ("table2.csv", "table2.md", "correlations.tex", "comparison.md"):
        text = (root / f"tables/sizes30/{table}").read_text()
        assert ("boxes" in text) is boxes, table
