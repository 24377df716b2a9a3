"""The paper's experiments on drawn data in its layouts: who votes, who is scored, on which images, and what is drawn.

A class is a colour, and a member reads it off the mean colour, misled by how bright the quarters are.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from conftest import done, paint
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.io import savemat
from sklearn.metrics import average_precision_score
from test_end_to_end import ballot, read, similarity, stored
from test_figures import coordinates

from xconsensus.compat import torchvision
from xconsensus.datasets.imagefolder import imagenet_wnids
from xconsensus.figures.gallery import COLUMNS, as_bytes, heat
from xconsensus.figures.index import FIGURES
from xconsensus.members.catalogue import Entry, entries, names

Floats = NDArray[np.float64]
MAP, COMPARISON = "mean_average_precision", "{}/tables/{}/comparison.csv"
ROOT = Path(__file__).parents[1]
NETWORK = '''
import torch
from torch import nn


class Colours(nn.Module):
    """The nearest class of the mean colour, and what brightness adds, of which all members share a part."""

    def __init__(self, num_classes, seed, noise):
        super().__init__()
        side = next(n for n in range(1, 99) if n**3 >= num_classes)
        levels = torch.linspace(0.25, 0.75, side)
        classes = torch.cartesian_prod(levels, levels, levels)[:num_classes]
        shared, own = (torch.randn(num_classes, 12, generator=torch.Generator().manual_seed(s)) for s in (0, seed))
        gain = 4 * (side - 1) ** 2
        self.colour = nn.Parameter(2 * gain * classes)
        self.bias = nn.Parameter(-gain * classes.square().sum(1))
        self.bright = nn.Parameter(0.1 * shared + noise * own)

    def forward(self, inputs):
        quarters = nn.functional.adaptive_avg_pool2d(inputs.square(), 2).flatten(1)
        return inputs.mean((2, 3)) @ self.colour.T + self.bias + quarters @ self.bright.T
'''
QUARTERS = np.kron([[60, -60], [-44, 44]], np.ones((12, 12)))[..., None]  # superpixels
TEXTURE = np.random.default_rng(0).normal(0, 25, (12, 12, 1))  # is gone, and brightness with it, where these are hidden
TEXTURE = np.kron(TEXTURE - TEXTURE.mean(), np.ones((2, 2, 1)))
SMALL = (
    "threads=1",
    "progress=off",
    "dataset.size=16",
    "dataset.resize=18",
    "committee.finetune=false",
    "committee.member_defaults={}",
    "explainer.samples=20",
    "explain.images=2",
    "explain.precision=float32",
    "score.bootstrap=20",
    "plot.trials=4",
)
SIXTEEN = [name for name in names("imagenet81") if entries()[name].family in ("ResNet", "SE_ResNet")]
FIVE = ["DenseNet161", "ResNet152", "VGG16", "GoogleNet", "AlexNet"]


# --- drawn data ---


def picture(label: int, classes: int) -> NDArray[np.uint8]:
    """24x24, of the class's colour in the mean, in lighter and darker quarters."""
    side = next(n for n in range(1, 99) if n**3 >= classes)
    place = np.unravel_index(label, (side, side, side))
    colour = 255 * np.linspace(0.25, 0.75, side)[list(place)]
    return np.clip(np.round(colour + QUARTERS + TEXTURE), 0, 255).astype(np.uint8)


def write_imagenet(root: Path) -> None:
    for label, wnid in [*enumerate(imagenet_wnids())][2::11]:  # two of these, 123 and 310, are read aright by all
        paint(root / f"imagenet/{wnid}/a.png", picture(label, 1000))


def write_cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    mask = np.zeros((24, 24), np.uint8)
    mask[:12] = 255
    images = [(label, split, f"{label + 1:03}.Bird/Bird_{split}.png") for label in range(200) for split in (0, 1)]
    for label, _, name in images:
        paint(folder / "images" / name, picture(label, 200))
        paint(folder / "segmentations" / name, mask)
    lists = {
        "classes": [f"{label + 1} {label + 1:03}.Bird" for label in range(200)],
        "images": [f"{number} {name}" for number, (_, _, name) in enumerate(images)],
        "image_class_labels": [f"{number} {label + 1}" for number, (label, _, _) in enumerate(images)],
        "train_test_split": [f"{number} {split}" for number, (_, split, _) in enumerate(images)],
    }
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_cars(root: Path) -> None:
    folder = root / "cars196/stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array([f"Car {label:03}" for label in range(196)], dtype=object)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        annotations = np.zeros(196, dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        for label in range(196):
            annotations[label] = (1, label + 1, f"{label + 1:05}.jpg")
            paint(folder / f"cars_{split}/{label + 1:05}.jpg", picture(label, 196))
        savemat(folder / path, {"annotations": annotations})


def write_flowers(root: Path) -> None:
    folder, numbers = root / "flowers102/flowers-102", np.arange(306)
    for number in numbers:
        paint(folder / f"jpg/image_{number + 1:05}.jpg", picture(int(number) % 102, 102))
    savemat(folder / "imagelabels.mat", {"labels": [numbers % 102 + 1]})
    splits = np.split(numbers + 1, 3)
    savemat(folder / "setid.mat", dict(zip(("trnid", "valid", "tstid"), ([each] for each in splits), strict=True)))


def write_foods(root: Path) -> None:
    folder = root / "food101/food-101"
    (folder / "meta").mkdir(parents=True)
    for split in ("train", "test"):
        images = {f"food_{label:03}": [f"food_{label:03}/{split}"] for label in range(101)}
        (folder / f"meta/{split}.json").write_text(json.dumps(images))
        for label, (name,) in enumerate(images.values()):
            paint(folder / f"images/{name}.jpg", picture(label, 101))


@dataclass(frozen=True)
class Laid:
    """The drawn data and a folder of outputs, which all commands of this file share."""

    folder: Path

    def run(self, words: Sequence[str]) -> dict[str, Any]:
        """Run a command, without training; the figures that it drew, by name."""
        drawn: dict[str, Any] = {}

        def draw(name: str, arguments: Any) -> dict[str, bytes]:
            drawn[name] = FIGURES[name].draw(*arguments)
            return {".png": b"", ".pdf": b""}

        own = [f"root={self.folder}/data", f"output_dir={self.folder}/outputs", *SMALL]
        own += ["committee.draw=12"] if "experiment=cub" in words else []
        for figures in self.folder.glob("outputs/*/figures"):
            shutil.rmtree(figures)
        with patch("xconsensus.stages.plot.printed", draw):
            done(*words, *own)
        return drawn

    def table(self, path: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "outputs" / path)

    def explanations(self, dataset: str, members: Iterable[str]) -> dict[str, list[Floats]]:
        """Each member's LIME weights on the images explained, read without the product's code."""
        folder = self.folder / f"outputs/{dataset}/explanations/lime"
        return {name: [each for _, each in sorted(stored(folder / name).items())] for name in members}


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laid]:
    folder = tmp_path_factory.mktemp("paper")
    for write in (write_imagenet, write_cub, write_cars, write_flowers, write_foods):
        write(folder / "data")
    (folder / "colours.py").write_text(NETWORK)
    order = [*entries()]

    def specification(entry: Entry, *_: str) -> dict[str, Any]:
        number = order.index(entry.name)
        network = {"library": "module", "model": f"{folder}/colours.py:Colours", "family": entry.family}
        plain = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "interpolation": "bicubic"}
        return network | plain | {"kwargs": {"seed": number, "noise": 0.05 + 0.5 * (number % 40) / 40}}

    reader = torchvision.datasets.Flowers102
    lists = {
        key: (name, hashlib.md5((folder / "data/flowers102/flowers-102" / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    with (
        patch.object(Entry, "specification", specification),
        patch.object(reader, "_file_dict", {**reader._file_dict, **lists}),
    ):
        yield Laid(folder)


def commands(target: str, folder: Path) -> list[list[str]]:
    """The arguments of each xconsensus that ``make TARGET EXPERIMENT=paper`` calls."""
    if not shutil.which("make"):
        pytest.skip("there is no make")
    stub = folder / "xconsensus"
    stub.write_text("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done\necho ---\n")
    stub.chmod(0o755)
    words = ["make", "-s", "-C", str(ROOT), "-o", ".venv/.installed", f"BIN={folder}", "EXPERIMENT=paper", target]
    environment = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}  # those of make --jobs
    text = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    return [block.splitlines() for block in text.split("---\n")[:-1]]


def scores(explanations: Mapping[str, list[Floats]], scored: Iterable[str], voters: Iterable[str]) -> list[float]:
    """LIME's consensus scores by Algorithm 2 of some members, under the vote of others."""
    voting = [*voters]
    images = range(len(explanations[voting[0]]))
    agreed = [np.mean([ballot("lime", explanations[name][image]) for name in voting], axis=0) for image in images]
    return [float(np.mean([similarity("lime", explanations[name][i], agreed[i]) for i in images])) for name in scored]


def accuracies(laid: Laid, dataset: str, members: Iterable[str]) -> list[float]:
    found = []
    for name in members:
        _, tensors = read(laid.folder / f"outputs/{dataset}/predictions/test/{name}.safetensors")
        found.append(float((tensors["probabilities"].argmax(1) == tensors["labels"]).mean()))
    return found


def sorted_points(figure: Figure, panel: int) -> Floats:
    return np.array(sorted(coordinates(figure.axes[panel])))


# --- what the Makefile's targets draw ---


def test_table_1_has_the_scores_of_five_by_the_vote_of_all_81(laid: Laid, tmp_path: Path) -> None:
    (words,) = commands("table1", tmp_path)
    laid.run(words)
    table = laid.table("imagenet/tables/imagenet81/table1.csv").set_index("measure")
    expected = scores(laid.explanations("imagenet", names("imagenet81")), FIVE, names("imagenet81"))
    among_themselves = scores(laid.explanations("imagenet", FIVE), FIVE, FIVE)
    ranks = [1 + sum(other > score for other in expected) for score in expected]
    shown = [f"{rank} ({score:.3f})" for rank, score in zip(ranks, expected, strict=True)]
    assert [*table.loc["Consensus LIME (here)"]] == shown
    assert not np.allclose(expected, among_themselves, atol=5e-4)
    images = laid.table("imagenet/images/imagenet81.csv")
    assert len(images) == 2
    assert {*images["image_id"]} <= {f"{wnid}/a.png" for wnid in imagenet_wnids()}


def test_figure_5_of_photographs_and_birds_has_every_member(laid: Laid, tmp_path: Path) -> None:
    for words, dataset, members in zip(commands("fig5", tmp_path), ("imagenet", "cub200"), (81, 12), strict=True):
        figure = laid.run(words)["fig05"]
        assert len(figure.axes) == 2
        committee = {"imagenet": "imagenet81", "cub200": "cub85"}[dataset]
        voters = [*laid.table(f"{dataset}/scores/{committee}/lime/members.csv")["member"][:-1]]
        assert len(voters) == members
        expected = scores(laid.explanations(dataset, voters), voters, voters)
        points = sorted({*zip(expected, accuracies(laid, dataset, voters), strict=True)})
        np.testing.assert_allclose(sorted_points(figure, 0), points, rtol=1e-4)
        assert f"n = {members}" in figure.axes[0].get_title()


def test_figure_7_has_the_16_by_their_own_vote_and_by_all_81_s_on_the_same_images(laid: Laid, tmp_path: Path) -> None:
    (words,) = commands("fig7", tmp_path)
    figure = laid.run(words)["fig07"]
    explained, own = laid.explanations("imagenet", names("imagenet81")), accuracies(laid, "imagenet", SIXTEEN)
    for panel, voters in enumerate((SIXTEEN, names("imagenet81"))):
        points = sorted({*zip(scores(explained, SIXTEEN, voters), own, strict=True)})
        np.testing.assert_allclose(sorted_points(figure, panel), points, rtol=1e-4)
        assert "n = 16" in figure.axes[panel].get_title()
    assert len(figure.axes) == 4


def test_section_452_adds_10_to_20_others_to_the_16(laid: Laid, tmp_path: Path) -> None:
    (words,) = commands("sec452", tmp_path)
    figure = laid.run(words)["sec452"]
    for axes, explainer in zip(figure.axes, ("lime", "smoothgrad"), strict=True):
        table = laid.table(f"imagenet/scores/imagenet81/{explainer}/random.csv")
        assert table["size"].between(26, 36).all()
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), table[["size", "pearson_r"]])


@pytest.mark.parametrize(("target", "x", "y"), [("fig4", MAP, "accuracy"), ("fig10", "consensus_score", MAP)])
def test_figures_of_birds_have_every_member_s_mean_average_precision(
    laid: Laid, tmp_path: Path, target: str, x: str, y: str
) -> None:
    (words,) = commands(target, tmp_path)
    (figure,) = laid.run(words).values()
    for panel, explainer in enumerate(("lime", "smoothgrad")):
        own = laid.table(f"cub200/scores/cub85/{explainer}/members.csv")[:-1]
        assert len(own) == 12
        np.testing.assert_allclose(sorted_points(figure, panel), sorted({*zip(own[x], own[y], strict=True)}))
    table = laid.run(["plot", "experiment=cub", "figure=comparison"]) or laid.table(
        COMPARISON.format("cub200", "cub85")
    )
    assert {"cub200"} == set(table["published_on"]) - {"imagenet"}


def test_figure_11_has_20_members_and_the_paper_s_r_of_cars_flowers_and_food(laid: Laid, tmp_path: Path) -> None:
    for words in commands("fig11", tmp_path):
        figure = laid.run(words).get("fig11")
    assert figure is not None
    stated = {"cars196": 0.952, "flowers102": 0.879, "food101": 0.913}
    for panel, (dataset, r) in enumerate(stated.items()):
        title = figure.axes[panel].get_title()
        assert title.startswith(f"{dataset}, n = 20")
        assert title.endswith(f"the paper's $r$ = {r}")
        committee = {"cars196": "cars20", "flowers102": "flowers20", "food101": "foods20"}[dataset]
        voters = [*laid.table(f"{dataset}/scores/{committee}/lime/members.csv")["member"][:-1]]
        expected = scores(laid.explanations(dataset, voters), voters, voters)
        points = sorted({*zip(expected, accuracies(laid, dataset, voters), strict=True)})
        np.testing.assert_allclose(sorted_points(figure, panel), points, rtol=1e-4)
    laid.run(["plot", "experiment=cars", "figure=comparison"])
    row, *others = laid.table(COMPARISON.format("cars196", "cars20")).to_dict("records")
    assert (row["published_on"], row["published"]) == ("cars196", 0.952)
    assert all(each["published"] != 0.809 for each in others)


# --- what the figures hold: points, whose vote, pictures ---

WHERE = {"imagenet": "imagenet81", "cub200": "cub85"}
UPPER = np.arange(16)[:, None].repeat(16, 1) < 8  # the drawn birds' mask on the explained crop


def members_of(laid: Laid, dataset: str) -> list[str]:
    return [*laid.table(f"{dataset}/scores/{WHERE[dataset]}/lime/members.csv")["member"][:-1]]


def consensus_of(laid: Laid, dataset: str, explainer: str) -> dict[str, NDArray[np.float64]]:
    """The vote of all members by Algorithm 2 as a map of each image, read without the product's code."""
    folder = laid.folder / "outputs" / dataset
    each = [stored(folder / f"explanations/{explainer}/{name}") for name in members_of(laid, dataset)]
    agreed = {image: np.mean([ballot(explainer, own[image]) for own in each], axis=0) for image in each[0]}
    if explainer == "lime":
        (labels,) = (stored(path) for path in (folder / "superpixels").iterdir())
        agreed = {image: values[labels[image].astype(int)] for image, values in agreed.items()}
    return {image: values.reshape(16, 16) for image, values in agreed.items()}


def rows_of(figure: Figure, tiles: int) -> list[list[NDArray[np.uint8]]]:
    """The pictures of a gallery, row by row: the image, the members' maps, the consensus."""
    pictures = [np.asarray(each.get_array()) for each in figure.axes[0].images]
    assert len(pictures) % tiles == 0
    return [pictures[first : first + tiles] for first in range(0, len(pictures), tiles)]


def check_consensus(rows: Sequence[Sequence[NDArray[np.uint8]]], agreed: Sequence[NDArray[np.float64]]) -> None:
    for row, values in zip(rows, agreed, strict=True):
        expected = as_bytes(heat(row[0], values)).astype(int)
        assert np.abs(row[-1].astype(int) - expected).max() <= 3  # maps are packed as float16
        assert expected.std() > 1


def test_figure_6_sets_smoothgrad_s_scores_against_lime_s(laid: Laid, tmp_path: Path) -> None:
    for words, dataset, count in zip(commands("fig6", tmp_path), WHERE, (81, 12), strict=True):
        figure, voters = laid.run(words)["fig06"], members_of(laid, dataset)
        assert len(voters) == count
        lime = scores(laid.explanations(dataset, voters), voters, voters)
        other = laid.table(f"{dataset}/scores/{WHERE[dataset]}/smoothgrad/members.csv")["consensus_score"][:-1]
        (axes,) = figure.axes
        points = np.array(sorted({*zip(lime, other, strict=True)}))
        np.testing.assert_allclose(sorted_points(figure, 0), points, rtol=1e-4)
        assert f"n = {count}" in axes.get_title()
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("LIME score", "SmoothGrad score")


def test_figure_8_has_each_trial_and_the_vote_of_all(laid: Laid, tmp_path: Path) -> None:
    (words,) = commands("fig8", tmp_path)
    dots, means, medians, whole = laid.run(words)["fig08"].axes[0].lines
    growing = laid.table("cub200/scores/cub85/lime/growing.csv")
    np.testing.assert_array_equal(dots.get_xydata(), growing[["size", "mean_average_precision"]])
    assert growing["size"].value_counts().to_dict() == dict.fromkeys(range(1, 12), 4) | {12: 1}
    assert [*means.get_xdata()] == [*medians.get_xdata()] == [*range(1, 13)]
    agreed = consensus_of(laid, "cub200", "lime").values()
    complete = np.mean([average_precision_score(UPPER.ravel(), values.ravel()) for values in agreed])
    np.testing.assert_allclose([means.get_ydata()[-1], whole.get_ydata()[0]], complete)


@pytest.mark.parametrize("place", [0, 1])
def test_table_2_has_every_member_and_the_committee(laid: Laid, tmp_path: Path, place: int) -> None:
    dataset = [*WHERE][place]
    laid.run(commands("table2", tmp_path)[place])
    table = laid.table(f"{dataset}/tables/{WHERE[dataset]}/table2.csv")
    voters = members_of(laid, dataset)
    assert [*table["member"]] == [*voters, "consensus"]
    assert dataset != "imagenet" or voters == names("imagenet81")
    np.testing.assert_allclose(table["accuracy"][:-1], accuracies(laid, dataset, voters))
    own = scores(laid.explanations(dataset, voters), voters, voters)
    np.testing.assert_allclose(table["consensus_score_lime"][:-1], own, rtol=1e-4)
    precision = [name for name in map(str, table) if name.startswith("mean_average_precision")]
    assert len(precision) == (2 if dataset == "cub200" else 0)
    for column in precision:
        agreed = consensus_of(laid, dataset, column.rpartition("_")[2]).values()
        expected = np.mean([average_precision_score(UPPER.ravel(), values.ravel()) for values in agreed])
        assert table[column].iloc[-1] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("target", "dataset", "explainer"),
    [
        ("fig12", "imagenet", "lime"),
        ("fig13", "imagenet", "smoothgrad"),
        ("fig14", "cub200", "lime"),
        ("fig15", "cub200", "smoothgrad"),
    ],
)
def test_galleries_show_members_from_the_best_and_everybody_s_vote(
    laid: Laid,
    tmp_path: Path,
    target: str,
    dataset: str,
    explainer: str,
) -> None:
    (words,) = commands(target, tmp_path)
    (figure,) = laid.run(words).values()
    voters = members_of(laid, dataset)
    shown = min(COLUMNS - 1, len(voters))
    agreed = consensus_of(laid, dataset, explainer)
    ids = [*laid.table(f"{dataset}/images/{WHERE[dataset]}.csv")["image_id"]]
    rows = rows_of(figure, shown + 2)
    check_consensus(rows, [agreed[image_id] for image_id in ids])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert (texts.count("Consensus"), len(ids)) == (1, 2)  # named once, above the first row
    best = dict(zip(voters, accuracies(laid, dataset, voters), strict=True))
    assert max(best, key=best.__getitem__) in "".join(texts).replace("\n", "")
    noted = [text for text in texts if text.startswith("AP ")]
    assert len(noted) == (2 * (shown + 1) if dataset == "cub200" else 0)
    for image_id, note in zip(ids, noted[shown :: shown + 1], strict=False):
        expected = average_precision_score(UPPER.ravel(), agreed[image_id].ravel())
        assert float(note.removeprefix("AP ")) == pytest.approx(expected, abs=2e-3)


def test_figure_3_shows_a_bird_by_both_explainers(laid: Laid, tmp_path: Path) -> None:
    (words,) = commands("fig3", tmp_path)
    (figure,) = laid.run(words).values()  # the last of the images
    image_id = [*laid.table("cub200/images/cub85.csv")["image_id"]][-1]
    agreed = [consensus_of(laid, "cub200", explainer)[image_id] for explainer in ("lime", "smoothgrad")]
    check_consensus(rows_of(figure, 12 + 2), agreed)
