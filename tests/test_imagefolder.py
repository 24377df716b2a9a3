"""Class folders, splits, labels and masks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from PIL import Image

from xconsensus.datasets.imagefolder import ImageFolder, imagenet_wnids
from xconsensus.errors import InputError

GREY = np.full((20, 30, 3), 128, np.uint8)
HERE = {"test": "."}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dog", "cat"):
        for number in (10, 9):
            paint(tmp_path / f"images/{name}/{number}.png", GREY)
    return tmp_path / "images"


def folder(root: Path, splits: Mapping[str, str] = HERE, **settings: object) -> ImageFolder:
    return ImageFolder(root=str(root), splits=splits, **settings)  # type: ignore[arg-type]


def test_classes_are_the_sorted_folders_and_ids_the_paths(root: Path) -> None:
    dataset = folder(root)
    records = dataset.records("test")
    assert dataset.classes == ("cat", "dog")
    assert [(r.image_id, r.label) for r in records] == [
        ("cat/10.png", 0),
        ("cat/9.png", 0),
        ("dog/10.png", 1),
        ("dog/9.png", 1),
    ]
    assert all(Path(record.path) == root / record.image_id for record in records)
    assert not dataset.has_masks
    np.testing.assert_array_equal(dataset.image(records[0]), GREY)


def test_hidden_folders_and_files_that_are_no_images_do_not_count(root: Path) -> None:
    before = folder(root).records("test")
    (root / ".git").mkdir()
    (root / "cat/notes.txt").write_text("x")
    (root / "readme.md").write_text("x")
    assert folder(root).records("test") == before
    paint(root / "cat/UPPER.PNG", GREY)
    assert len(folder(root).records("test")) == len(before) + 1


def test_splits_are_folders_below_root_and_may_be_shared(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            paint(tmp_path / f"{split}/{name}/0.png", GREY)
    dataset = folder(tmp_path, {"train": "train", "test": "val", "explain": "val"})
    assert [r.image_id for r in dataset.records("train")] == ["train/a/0.png", "train/b/0.png"]
    assert dataset.records("test") == dataset.records("explain")
    ids = [record.image_id for split in ("train", "test") for record in dataset.records(split)]
    assert len(set(ids)) == len(ids)


def test_a_split_with_some_of_the_classes_keeps_the_labels(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        paint(tmp_path / f"train/{name}/0.png", GREY)
    paint(tmp_path / "val/c/0.png", GREY)
    assert [r.label for r in folder(tmp_path, {"train": "train", "test": "val"}).records("test")] == [2]


def test_labels_follow_the_given_order_of_classes(root: Path) -> None:
    dataset = folder(root, classes=["fox", "dog", "cat"])
    assert {r.image_id.split("/")[0]: r.label for r in dataset.records("test")} == {"dog": 1, "cat": 2}
    with pytest.raises(InputError, match=r"images/dog.*dataset\.classes"):
        folder(root, classes=["fox", "cat"]).records("test")


def test_imagenet_s_labels_are_the_sorted_wordnet_ids(tmp_path: Path) -> None:
    names = imagenet_wnids()
    assert names == sorted(set(names))
    assert len(names) == 1000
    assert (names[0], names[207], names[999]) == ("n01440764", "n02099601", "n15075141")
    paint(tmp_path / "n02099601/golden.jpg", GREY)
    assert [r.label for r in folder(tmp_path, classes="imagenet").records("test")] == [207]


def test_unknown_splits_and_folders_are_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"'train'.*test.*dataset\.splits\.train"):
        folder(root).records("train")
    for settings in ({"splits": {"test": "nowhere"}}, {"masks": str(root / "nowhere")}):
        with pytest.raises(InputError, match="nowhere"):
            folder(root, **settings)
    with pytest.raises(InputError, match="nowhere"):
        folder(root / "nowhere")


def test_folders_without_images_or_classes_are_named(root: Path, tmp_path: Path) -> None:
    (root / "fox").mkdir()
    with pytest.raises(InputError, match="fox"):
        folder(root).records("test")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare"):
        folder(tmp_path / "bare")
    with pytest.raises(InputError, match="bare"):
        folder(tmp_path / "bare", classes=["cat"]).records("test")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_mask_has_the_same_path_and_any_suffix(root: Path, tmp_path: Path, suffix: str) -> None:
    inside = np.zeros((20, 30), bool)
    inside[5:10, 3:20] = True
    paint(tmp_path / f"masks/cat/9{suffix}", np.where(inside, 255, 0).astype(np.uint8))
    dataset = folder(root, masks=str(tmp_path / "masks"))
    assert dataset.has_masks
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[1]), inside)


def test_an_image_with_dots_in_its_name_finds_its_own_mask(root: Path, tmp_path: Path) -> None:
    paint(root / "cat/a.b.jpg", GREY)
    paint(root / "cat/a.c.jpg", GREY)
    half = np.zeros((20, 30), np.uint8)
    half[:10] = 1
    paint(tmp_path / "masks/cat/a.b.png", half)
    paint(tmp_path / "masks/cat/a.c.png", 1 - half)
    dataset = folder(root, masks=str(tmp_path / "masks"))
    found = {r.image_id: dataset.mask(r) for r in dataset.records("test") if "/a." in r.image_id}
    np.testing.assert_array_equal(found["cat/a.b.jpg"], half == 1)
    np.testing.assert_array_equal(found["cat/a.c.jpg"], half == 0)


def test_the_object_lies_above_the_threshold(root: Path, tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[:, 10:20], values[:, 20:] = 1, 2
    paint(tmp_path / "masks/cat/9.png", values)
    for threshold in (0, 1):
        dataset = folder(root, masks=str(tmp_path / "masks"), mask_threshold=threshold)
        np.testing.assert_array_equal(dataset.mask(dataset.records("test")[1]), values > threshold)
    dataset = folder(root, masks=str(tmp_path / "masks"), mask_threshold=2)
    record = dataset.records("test")[1]
    with pytest.raises(InputError, match=r"masks/cat/9\.png.*mask_threshold=2"):
        dataset.mask(record)


def test_a_mask_and_its_rotated_photograph_are_both_upright(root: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    inside = np.zeros((30, 20), np.uint8)
    inside[:5] = 255
    Image.fromarray(GREY).save(root / "cat/turned.jpg", exif=exif)
    paint(tmp_path / "masks/cat/turned.png", inside)
    dataset = folder(root, masks=str(tmp_path / "masks"))
    (record,) = (r for r in dataset.records("test") if "turned" in r.image_id)
    assert dataset.mask(record).shape == dataset.image(record).shape[:2] == (30, 20)


def test_masks_that_are_missing_or_of_another_size_are_named(root: Path, tmp_path: Path) -> None:
    paint(tmp_path / "masks/cat/9.png", np.full((30, 20), 255, np.uint8))
    dataset = folder(root, masks=str(tmp_path / "masks"))
    other, one = dataset.records("test")[:2]
    with pytest.raises(InputError, match=r"masks/cat/9\.png.*20x30.*cat/9\.png 30x20"):
        dataset.mask(one)
    with pytest.raises(InputError, match=r"masks/cat/10.*no mask.*cat/10\.png"):
        dataset.mask(other)
