"""CUB-200-2011 in its official layout, written here."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import paint
from PIL import Image

from xconsensus.datasets.cub200 import CUB200
from xconsensus.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# image number, name, class, whether it is for training
IMAGES = (
    (1, "001.Black_footed_Albatross/Black_Footed_Albatross_0002_55.jpg", 1, 0),
    (2, "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg", 1, 0),
    (3, "002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg", 2, 1),
    (4, "004.Groove_billed_Ani/Groove_Billed_Ani_0001_1670.jpg", 4, 0),
)
CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "004.Groove_billed_Ani")
GREY = np.full((20, 30, 3), 128, np.uint8)
LEVELS = np.repeat(np.arange(6, dtype=np.uint8) * 51, 5)[None].repeat(20, 0)


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "CUB_200_2011"
    for _, name, _, _ in IMAGES:
        paint(folder / "images" / name, GREY)
        paint((folder / "segmentations" / name).with_suffix(".png"), LEVELS)
    write(folder / "classes.txt", [f"{int(name[:3])} {name}" for name in CLASSES])
    write(folder / "images.txt", [f"{number} {name}" for number, name, _, _ in IMAGES])
    write(folder / "image_class_labels.txt", [f"{number} {label}" for number, _, label, _ in IMAGES])
    write(folder / "train_test_split.txt", [f"{number} {training}" for number, _, _, training in IMAGES])
    write(folder / "bounding_boxes.txt", [f"{number} 5.0 5.0 10.0 10.0" for number, *_ in IMAGES])
    return folder


def test_splits_and_labels_are_those_of_the_lists(root: Path) -> None:
    dataset = CUB200(root=str(root))
    assert dataset.classes == CLASSES
    for split, training in (("train", 1), ("test", 0)):
        records = dataset.records(split)
        assert [r.image_id for r in records] == sorted(name for _, name, _, t in IMAGES if t == training)
        for record in records:
            assert dataset.classes[record.label] == record.image_id.split("/")[0]
            assert Path(record.path) == root / "images" / record.image_id
            np.testing.assert_array_equal(dataset.image(record), GREY)
    with pytest.raises(InputError, match=r"'val'.*train, test"):
        dataset.records("val")


@pytest.mark.parametrize("annotators", range(5))
def test_the_bird_is_what_more_than_so_many_of_five_annotators_marked(root: Path, annotators: int) -> None:
    dataset = CUB200(root=str(root), mask_threshold=annotators * 51)
    marked: NDArray[np.bool_] = annotators < LEVELS // 51
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[0]), marked)


def test_by_default_the_bird_is_what_the_majority_marked(root: Path) -> None:
    dataset = CUB200(root=str(root))
    assert dataset.has_masks
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[0]), LEVELS / 255 > 1 / 2)


def test_segmentations_may_lie_beside_or_elsewhere_or_be_done_without(root: Path, tmp_path: Path) -> None:
    inside = CUB200(root=str(root))
    expected = inside.mask(inside.records("test")[0])
    beside = (root / "segmentations").rename(tmp_path / "segmentations")
    elsewhere = CUB200(root=str(root), masks=str(beside))
    for dataset in (CUB200(root=str(root)), elsewhere):
        np.testing.assert_array_equal(dataset.mask(dataset.records("test")[0]), expected)
    beside.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"segmentations\.tgz from data\.caltech\.edu.*dataset\.masks=null"):
        CUB200(root=str(root))
    assert not CUB200(root=str(root), masks=None).has_masks


def test_a_mask_with_an_opacity_channel_is_its_grey(root: Path) -> None:
    dataset = CUB200(root=str(root))
    record = dataset.records("test")[0]
    expected = dataset.mask(record)
    path = (root / "segmentations" / record.image_id).with_suffix(".png")
    Image.merge("LA", [Image.fromarray(LEVELS), Image.fromarray(np.full_like(LEVELS, 255))]).save(path)
    np.testing.assert_array_equal(dataset.mask(record), expected)


def test_masks_that_are_missing_empty_or_of_another_size_are_named(root: Path) -> None:
    dataset = CUB200(root=str(root))
    record = dataset.records("test")[0]
    path = (root / "segmentations" / record.image_id).with_suffix(".png")
    paint(path, np.full((20, 30), 102, np.uint8))
    with pytest.raises(InputError, match=rf"{path.name}.*empty.*mask_threshold=127"):
        dataset.mask(record)
    paint(path, np.full((30, 20), 255, np.uint8))
    with pytest.raises(InputError, match=rf"{path.name}.*20x30.*30x20"):
        dataset.mask(record)
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        dataset.mask(record)


@pytest.mark.parametrize(
    "name", ["classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt", "images", "."]
)
def test_what_is_missing_is_named_with_where_to_get_it(root: Path, tmp_path: Path, name: str) -> None:
    (root / name).resolve().rename(tmp_path / "moved")
    missing = (root / name).resolve()
    with pytest.raises(InputError, match=rf"{missing}: .*CUB_200_2011\.tgz from data\.caltech\.edu"):
        CUB200(root=str(root))


def test_an_image_that_is_named_but_absent_is_named(root: Path) -> None:
    (root / "images" / IMAGES[3][1]).unlink()
    with pytest.raises(InputError, match=r"Groove_Billed_Ani_0001_1670\.jpg.*images\.txt"):
        CUB200(root=str(root)).records("test")


@pytest.mark.parametrize(
    ("name", "line", "culprit"),
    [
        ("images.txt", "5", r"images\.txt:5"),
        ("classes.txt", "five 005.Crested_Auklet", r"classes\.txt:4"),
        ("images.txt", "5 new.jpg", r"image_class_labels\.txt: image 5 has no line"),
        ("image_class_labels.txt", "4 3", r"image_class_labels\.txt: image 4 has 3"),
        ("train_test_split.txt", "4 2", r"train_test_split\.txt: image 4 has 2"),
    ],
)
def test_lines_that_make_no_sense_are_named(root: Path, name: str, line: str, culprit: str) -> None:
    with (root / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=culprit):
        CUB200(root=str(root))
