"""Oxford's 17 flowers, in a layout of two classes written here, and the real ones where they are present."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from PIL import Image
from test_real import REAL

from xconsensus.datasets import image_settings
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.flowers17 import Flowers17
from xconsensus.errors import InputError

GREY = np.full((8, 10, 3), 90, np.uint8)
MASK = np.repeat(np.array([[0, 128, 255, 255, 128, 0, 0, 0, 0, 0]], np.uint8), 8, axis=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "jpg").mkdir()
    for number in range(1, 161):
        (tmp_path / f"jpg/image_{number:04}.jpg").touch()
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.csv").write_text("index,name\n0,daffodil\n1,snowdrop\n")
    return tmp_path


def with_mask(root: Path, number: int, mask: np.ndarray = MASK) -> None:
    paint(root / f"jpg/image_{number:04}.jpg", GREY)
    Image.fromarray(mask).save(root / f"masks/image_{number:04}.png")


@pytest.mark.parametrize("seed", [0, 7])
def test_splits_share_no_image_and_have_as_many_of_each_class_as_stated(root: Path, seed: int) -> None:
    dataset = Flowers17(root=str(root), split_seed=seed)
    assert dataset.classes == ("daffodil", "snowdrop")
    records = {split: dataset.records(split) for split in ("train", "validation", "test")}
    for split, count in (("train", 40), ("validation", 20), ("test", 20)):
        assert Counter(record.label for record in records[split]) == {0: count, 1: count}
    ids = sorted(record.image_id for split in records.values() for record in split)
    assert ids == [f"image_{number:04}" for number in range(1, 161)]
    assert all(record.label == (int(record.image_id[-4:]) - 1) // 80 for record in records["train"])
    other = Flowers17(root=str(root), split_seed=seed + 1)
    assert {record.image_id for record in other.records("train")} != {record.image_id for record in records["train"]}
    keys = {"loader": "flowers17", "size": 8, "resize": 8}
    made, now = (image_settings(other, {**keys, "split_seed": each}) for each in (seed, seed + 1))
    assert made != now  # weights of another split are not taken for these


def test_void_pixels_are_neither_flower_nor_surroundings(root: Path) -> None:
    dataset = Flowers17(root=str(root))
    record = dataset.records("test")[0]
    with_mask(root, int(record.image_id[-4:]))
    np.testing.assert_array_equal(dataset.mask(record), MASK == 255)
    np.testing.assert_array_equal(dataset.void(record), MASK == 128)


def test_images_without_a_mask_are_tested_and_not_explained(root: Path) -> None:
    dataset = Flowers17(root=str(root))
    test = dataset.records("test")
    images = CroppedImages(dataset, 8, 8)
    assert images.usable(test) == test
    with pytest.raises(InputError, match="none of the 40 images to explain has a mask"):
        images.usable(test, masks=True)
    with_mask(root, int(test[3].image_id[-4:]))
    assert images.usable(test, masks=True) == [test[3]]
    images.find_masks(test)
    assert not Flowers17(root=str(root), masks=None).has_masks


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("index,name\n0,a\n2,b\n", "indices are not 0, 1 and on: 0, 2"),
        ("name\na\n", "cannot be read as a table of index and name"),
        ("index,name\nx,a\n", "cannot be read as a table of index and name"),
        ("index,name\n", "indices are not 0"),
    ],
)
def test_a_table_of_classes_of_another_form_is_refused(root: Path, table: str, said: str) -> None:
    (root / "classes.csv").write_text(table)
    with pytest.raises(InputError, match=said):
        Flowers17(root=str(root))


def test_a_missing_photograph_and_a_mask_of_other_values_are_named(root: Path) -> None:
    dataset = Flowers17(root=str(root))
    record = dataset.records("test")[0]
    with_mask(root, int(record.image_id[-4:]), np.full_like(MASK, 77))
    with pytest.raises(InputError, match=rf"{record.image_id}.png: mask has the value 77"):
        dataset.mask(record)
    Path(record.path).unlink()
    with pytest.raises(InputError, match=f"{record.image_id}.jpg: no such file"):
        dataset.records("test")


@pytest.mark.skipif(not (REAL / "flowers17").is_dir(), reason="no flowers in ../shared/real")
def test_the_real_masks_have_void_bands_around_flowers() -> None:
    dataset = Flowers17(root=str(REAL / "flowers17"))
    assert len(dataset.classes) == 17
    images = CroppedImages(dataset, 146, 128)
    masked = images.usable(dataset.records("test"), masks=True)
    assert 150 < len(masked) < 340
    for record in masked[:: len(masked) // 5]:
        mask, void = images.mask(record), images.void(record)
        assert void is not None
        assert mask.any()
        assert 0.01 < void.mean() < 0.6
        assert not (mask & void).any()
