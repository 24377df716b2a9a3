"""CUB-200-2011 in its official layout, written here."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import paint
from PIL import Image

from xconsensus.datasets import mask_settings
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.cub200 import CUB200
from xconsensus.datasets.images import center_crop, short_edge
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


def test_a_box_is_the_mask_of_the_pixels_whose_centres_lie_inside(root: Path) -> None:
    boxes = {1: "5.0 5.0 10.0 10.0", 2: "4.6 0.4 3.0 2.2", 3: "-3 -2 8 900", 4: "0.4 0 0.2 9"}
    write(root / "bounding_boxes.txt", [f"{number} {box}" for number, box in boxes.items()])
    dataset = CUB200(root=str(root), masks="boxes")
    assert (dataset.has_masks, mask_settings(dataset, {"mask_threshold": 127})["kind"]) == (True, "boxes")
    by_id = {record.image_id: record for split in ("train", "test") for record in dataset.records(split)}
    inside = {1: (slice(5, 15), slice(5, 15)), 2: (slice(0, 3), slice(5, 8)), 3: (slice(0, 20), slice(0, 5))}
    for number, name, _, _ in IMAGES:
        expected = np.zeros((20, 30), bool)
        expected[inside.get(number, (slice(0, 9), slice(0, 1)))] = True
        np.testing.assert_array_equal(dataset.mask(by_id[name]), expected)


def test_boxes_are_scaled_and_cropped_with_the_image(root: Path) -> None:
    """Painted as an image, a box of whole pixels is where its mask is after the same resize and crop."""
    write(root / "bounding_boxes.txt", [f"{number} 8 4 12 10" for number, *_ in IMAGES])
    dataset = CUB200(root=str(root), masks="boxes")
    record = dataset.records("test")[0]
    painted = np.zeros((20, 30, 3), np.uint8)
    painted[4:14, 8:20] = 255
    found = CroppedImages(dataset, 40, 36).mask(record)
    seen = center_crop(short_edge(painted, 40), 36)[..., 0]
    np.testing.assert_array_equal(found[(seen < 20) | (seen > 235)], (seen > 127)[(seen < 20) | (seen > 235)])
    assert found.mean() == pytest.approx(24 * 20 / 36**2, abs=0.001)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 5 5 0 10", "image 1 has the box 5.0 5.0 0.0 10.0, not"),
        ("1 5 5 nan 10", "image 1 has the box 5.0 5.0 nan 10.0, not"),
        ("7 5 5 9 10", "image 1 has no line"),
        ("1 5 5 9", "not of the form NUMBER NUMBER NUMBER NUMBER NUMBER"),
    ],
)
def test_a_box_that_is_none_is_named(root: Path, line: str, said: str) -> None:
    write(root / "bounding_boxes.txt", [line, *(f"{number} 5 5 9 9" for number, *_ in IMAGES[1:])])
    with pytest.raises(InputError, match=f"bounding_boxes.txt.*{said}"):
        CUB200(root=str(root), masks="boxes")


def test_a_box_beside_its_image_and_a_missing_list_are_named(root: Path) -> None:
    write(root / "bounding_boxes.txt", [f"{number} 90 5 9 9" for number, *_ in IMAGES])
    dataset = CUB200(root=str(root), masks="boxes")
    with pytest.raises(InputError, match="mask is empty, its box lies elsewhere"):
        dataset.mask(dataset.records("test")[0])
    (root / "bounding_boxes.txt").unlink()
    with pytest.raises(InputError, match=r"bounding_boxes.txt: no such file"):
        CUB200(root=str(root), masks="boxes")
