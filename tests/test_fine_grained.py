"""Stanford Cars, Oxford Flowers and Food-101 in the layouts that torchvision's classes read, written here."""

import hashlib
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from conftest import paint
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from xconsensus import datasets
from xconsensus.compat import torchvision
from xconsensus.datasets import Dataset
from xconsensus.errors import InputError

GREY = np.full((20, 30, 3), 128, np.uint8)
SPLITS: dict[str, dict[str, Any]] = {
    "cars196": {"train": "train", "test": "test"},
    "flowers102": {"train": ["train", "val"], "test": "test"},
    "food101": {"train": "train", "test": "test"},
}
CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
FLOWERS = {"trnid": [2, 5], "valid": [1, 6], "tstid": [3, 4]}
FLOWER_LABELS = [1, 77, 102, 1, 2, 50]
BLUE = (0, 0, 254)


def write_cars(folder: Path) -> None:
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(CARS, dtype=object)})
    for split, path, labels in (
        ("train", "devkit/cars_train_annos.mat", [2, 1]),
        ("test", "cars_test_annos_withlabels.mat", [1, 2, 2]),
    ):
        annotations = np.zeros(len(labels), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        for index, label in enumerate(labels):
            annotations[index] = (1, label, f"{index + 1:05d}.jpg")
            paint(folder / f"cars_{split}/{index + 1:05d}.jpg", GREY)
        savemat(folder / path, {"annotations": annotations})


def write_flowers(folder: Path) -> None:
    for number in range(1, 7):
        paint(folder / f"jpg/image_{number:05d}.jpg", GREY)
    savemat(folder / "imagelabels.mat", {"labels": np.array([FLOWER_LABELS])})
    savemat(folder / "setid.mat", {name: np.array([ids]) for name, ids in FLOWERS.items()})


def write_food(folder: Path) -> None:
    (folder / "meta").mkdir(parents=True)
    for split, numbers in (("train", (7, 5)), ("test", (9,))):
        names = {kind: [f"{kind}/{number}{len(kind)}" for number in numbers] for kind in ("waffles", "apple_pie")}
        (folder / f"meta/{split}.json").write_text(json.dumps(names))
        for name in (each for kind in names.values() for each in kind):
            paint(folder / f"images/{name}.jpg", GREY)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "cars196": ("stanford_cars", write_cars),
    "flowers102": ("flowers-102", write_flowers),
    "food101": ("food-101", write_food),
}
READERS = {"cars196": "StanfordCars", "flowers102": "Flowers102", "food101": "Food101"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all three; torchvision expects the checksums of the flowers' lists that are there."""
    for folder, write in WRITERS.values():
        write(tmp_path / folder)
    sums = {
        key: (name, hashlib.md5((tmp_path / "flowers-102" / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    reader = torchvision.datasets.Flowers102
    monkeypatch.setattr(reader, "_file_dict", {**reader._file_dict, **sums})
    return tmp_path


def load(name: str, root: Path, **settings: Any) -> Dataset:
    own = {"masks": None} if name == "flowers102" else {}
    return datasets.load({"loader": name, "root": str(root), "splits": SPLITS[name], **own, **settings})


def parts(name: str, split: str) -> list[str]:
    given = SPLITS[name][split]
    return [given] if isinstance(given, str) else given


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_torchvision_s(root: Path, name: str, split: str) -> None:
    records = load(name, root).records(split)
    read = [
        getattr(torchvision.datasets, READERS[name])(str(root), split=part, loader=Path) for part in parts(name, split)
    ]
    expected = sorted((part[i][0], int(part[i][1])) for part in read for i in range(len(part)))
    assert [(Path(r.path), r.label) for r in records] == expected
    assert [Path(r.path) for r in records] == [root / WRITERS[name][0] / r.image_id for r in records]


@pytest.mark.parametrize("name", WRITERS)
def test_images_can_be_read_and_ids_are_unique_in_the_data_set(root: Path, name: str) -> None:
    dataset = load(name, root)
    records = [record for split in SPLITS[name] for record in dataset.records(split)]
    assert len({record.image_id for record in records}) == len(records)
    assert all(0 <= record.label < len(dataset.classes) for record in records)
    np.testing.assert_array_equal(dataset.image(records[0]), GREY)
    assert not dataset.has_masks


def test_classes_have_their_names(root: Path) -> None:
    assert load("cars196", root).classes == CARS
    assert load("food101", root).classes == ("apple_pie", "waffles")
    flowers = load("flowers102", root).classes
    assert (len(flowers), flowers[76]) == (102, "passion flower")


@pytest.mark.parametrize("name", WRITERS)
def test_root_is_the_folder_or_the_one_that_holds_it(root: Path, name: str) -> None:
    assert load(name, root / WRITERS[name][0]).records("test") == load(name, root).records("test")


@pytest.mark.parametrize(
    ("name", "fetch"),
    [
        ("cars196", r"site is gone.*cars_train\.tgz.*cars_test_annos_withlabels\.mat"),
        ("flowers102", r"dataset\.download=true.*102flowers\.tgz.*vgg/data/flowers/102"),
        ("food101", r"dataset\.download=true.*food-101\.tar\.gz.*data\.vision\.ee\.ethz\.ch"),
    ],
)
def test_a_missing_or_incomplete_folder_says_what_to_fetch(tmp_path: Path, name: str, fetch: str) -> None:
    folder = WRITERS[name][0]
    (tmp_path / "empty" / folder).mkdir(parents=True)
    for place in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(InputError, match=rf"{folder}: .*{fetch}"):
            load(name, place)


def test_splits_images_and_lists_that_are_wrong_are_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"'val'.*train, test"):
        load("food101", root).records("val")
    (root / "food-101/images/waffles/97.jpg").unlink()
    with pytest.raises(InputError, match=r"waffles/97\.jpg.*food-101"):
        load("food101", root).records("test")
    (root / "food-101/meta/test.json").write_text("{")
    with pytest.raises(InputError, match="food-101.*split test"):
        load("food101", root).records("test")
    (root / "flowers-102/setid.mat").write_bytes(b"damaged")
    with pytest.raises(InputError, match="flowers-102.*corrupted"):
        load("flowers102", root)


@pytest.mark.parametrize("name", ["flowers102", "food101"])
def test_nothing_is_downloaded_unless_asked_for(
    root: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = WRITERS[name]
    asked = []

    def fetch(url: str, place: str = "", **settings: str) -> None:
        assert settings["md5"]
        asked.append(url)
        target = Path(place or settings["download_root"])
        target = target if target.name == folder else target / folder
        if not target.exists():
            write(target)

    module = getattr(torchvision.datasets, name)
    for function in ("download_and_extract_archive", "download_url"):
        monkeypatch.setattr(module, function, fetch, raising=False)
    with pytest.raises(InputError, match="download=true"):
        load(name, tmp_path / "new")
    assert not asked
    assert len(load(name, tmp_path / "new", download=True).records("test")) == len(load(name, root).records("test"))
    assert asked


def test_a_download_that_fails_says_what_to_fetch_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: str, **__: str) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torchvision.datasets.food101, "download_and_extract_archive", fetch)
    with pytest.raises(InputError, match=r"no route.*food-101\.tar\.gz"):
        load("food101", tmp_path, download=True)


# --- the flowers' masks ---


def segmented(path: Path, flower: NDArray[np.uint8], inside: NDArray[np.bool_], **how: int) -> None:
    pixels = np.where(inside[..., None], flower, np.array(BLUE, np.uint8)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", **how)


def disc(height: int, width: int) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 3) ** 2)


@pytest.mark.parametrize(
    "colour", [(250, 220, 20), (200, 30, 60), (110, 70, 190), (60, 60, 200), (250, 250, 250), (5, 5, 5)]
)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_flower_survives_the_blur_of_its_jpeg(root: Path, colour: tuple[int, ...], subsampling: int) -> None:
    inside = disc(200, 300)
    flower = np.clip(np.random.default_rng(0).normal(colour, 10, (200, 300, 3)), 0, 255).astype(np.uint8)
    paint(root / "flowers-102/jpg/image_00003.jpg", flower)
    path = root / "flowers-102/segmim/segmim_00003.jpg"
    segmented(path, flower, inside, quality=75, subsampling=subsampling)
    with Image.open(BytesIO(path.read_bytes())) as image:
        blurred = np.asarray(image)
    assert len(np.unique(blurred[~inside], axis=0)) > 1  # else there was nothing to survive
    dataset = load("flowers102", root, masks="segmim")
    assert dataset.has_masks
    found = dataset.mask(dataset.records("test")[0])
    assert (found & inside).sum() / (found | inside).sum() > 0.9


def test_the_tolerance_is_the_distance_from_blue_in_any_channel(root: Path) -> None:
    path = root / "flowers-102/segmim/segmim_00003.jpg"
    segmented(path, np.full_like(GREY, 60), np.ones(GREY.shape[:2], bool), quality=95)
    for tolerance, empty in ((150, False), (200, True)):  # the blue channel differs by 194, the others by 60
        dataset = load("flowers102", root, masks="segmim", mask_tolerance=tolerance)
        record = dataset.records("test")[0]
        if empty:
            with pytest.raises(InputError, match=r"segmim_00003\.jpg.*empty.*mask_tolerance=200"):
                dataset.mask(record)
        else:
            assert dataset.mask(record).all()


def test_segmentations_may_lie_beside_and_are_a_separate_archive(root: Path) -> None:
    with pytest.raises(InputError, match=r"102segmentations\.tgz from .*vgg/data/flowers/102.*dataset\.masks=null"):
        load("flowers102", root, masks="segmim")
    segmented(root / "segmim/segmim_00003.jpg", GREY[:10], np.ones((10, 30), bool))
    dataset = load("flowers102", root, masks="segmim")
    small, absent = dataset.records("test")[:2]
    with pytest.raises(InputError, match=r"segmim_00003\.jpg.*30x10.*30x20"):
        dataset.mask(small)
    with pytest.raises(InputError, match=r"segmim_00004\.jpg"):
        dataset.mask(absent)


@pytest.mark.parametrize("name", ["cars196", "food101"])
def test_without_masks_there_are_none(root: Path, name: str) -> None:
    dataset = load(name, root)
    with pytest.raises(InputError, match="no masks"):
        dataset.mask(dataset.records("test")[0])
