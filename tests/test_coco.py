"""COCO in its official layout, written here, and the real part of it beside the repository."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import paint

from xconsensus.datasets.coco import COCO
from xconsensus.datasets.imagefolder import imagenet_wnids
from xconsensus.errors import InputError

if TYPE_CHECKING:
    from xconsensus.datasets import SeveralObjects

REAL = Path(__file__).parents[2] / "shared/real/coco"
HEIGHT, WIDTH = 20, 30
SPLITS = {"test": "val2017"}

real = pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs in ../shared/real")


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(image: int, category: int, sides: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, right, bottom = sides
    area = (right - left) * (bottom - top)
    return {"image_id": image, "category_id": category, "area": area, "iscrowd": 0, "segmentation": box(*sides)}


# the numbers of COCO's categories have gaps and need not come in order
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
CAT, SMALL_DOG, LARGE_DOG = (0, 0, 10, 10), (20, 0, 25, 10), (10, 10, 18, 18)
ANNOTATIONS = [
    annotation(7, 18, SMALL_DOG),
    annotation(7, 17, CAT),
    annotation(7, 18, LARGE_DOG),
    annotation(5, 90, CAT),
]


def write(root: Path, folder: str = "val2017", **changes: Any) -> dict[str, Any]:
    content = {
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "height": HEIGHT, "width": WIDTH} for number in (7, 5, 6)
        ],
        "annotations": ANNOTATIONS,
        "categories": CATEGORIES,
        **changes,
    }
    for entry in content["images"]:
        paint(root / folder / entry["file_name"], np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{folder}.json").write_text(json.dumps(content))
    return content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def coco(root: Path, **settings: Any) -> COCO:
    return COCO(root=str(root), splits=SPLITS, **settings)


def test_records_are_the_images_with_instances_and_labels_the_largest_category(root: Path) -> None:
    dataset = coco(root)
    assert dataset.classes == ("cat", "dog", "toothbrush")
    records = dataset.records("test")
    assert [(r.image_id, dataset.classes[r.label]) for r in records] == [
        ("000000000005.jpg", "toothbrush"),
        ("000000000007.jpg", "dog"),  # 50 + 64 pixels in two, against 100 in one
    ]
    assert all(Path(record.path) == root / "val2017" / record.image_id for record in records)


def test_instances_come_with_their_categories_largest_first(root: Path) -> None:
    dataset: SeveralObjects = coco(root)
    found = dataset.instances(dataset.records("test")[1])
    assert [name for name, _ in found] == ["cat", "dog", "dog"]
    for (_, mask), (left, top, right, bottom) in zip(found, (CAT, LARGE_DOG, SMALL_DOG), strict=True):
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(mask, expected)


def test_the_mask_is_every_instance_of_the_label_s_category(root: Path) -> None:
    dataset = coco(root)
    record = dataset.records("test")[1]
    dogs = [mask for name, mask in dataset.instances(record) if name == "dog"]
    np.testing.assert_array_equal(dataset.mask(record), dogs[0] | dogs[1])


def test_a_crowd_in_run_lengths_is_an_instance(root: Path) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[5:, :15] = True
    runs = [5] + [15, 5] * 14 + [15, HEIGHT * (WIDTH - 15)]
    entry: dict[str, Any] = {"image_id": 6, "category_id": 17, "area": 225, "iscrowd": 1}
    entry["segmentation"] = {"counts": runs, "size": [HEIGHT, WIDTH]}
    write(root, annotations=[entry])
    dataset = coco(root)
    (record,) = dataset.records("test")
    np.testing.assert_array_equal(dataset.mask(record), crowd)


def test_without_labels_the_classes_are_imagenet_s_and_the_masks_stay(root: Path) -> None:
    dataset, plain = coco(root, labels="none"), coco(root)
    assert list(dataset.classes) == imagenet_wnids()
    for record, known in zip(dataset.records("test"), plain.records("test"), strict=True):
        assert (record.image_id, record.label) == (known.image_id, -1)
        np.testing.assert_array_equal(dataset.mask(record), plain.mask(known))
        assert [name for name, _ in dataset.instances(record)] == [name for name, _ in plain.instances(known)]
    with pytest.raises(InputError, match=r"dataset\.labels=imagenet.*coco nor none"):
        coco(root, labels="imagenet")


def test_masks_are_those_of_a_fresh_reading_too(root: Path) -> None:
    first = coco(root)
    record = first.records("test")[1]
    np.testing.assert_array_equal(coco(root).mask(record), first.mask(record))


def test_splits_are_folders_with_a_file_of_instances_each(root: Path) -> None:
    write(root, "train2017", annotations=[annotation(6, 17, CAT)])
    dataset = COCO(root=str(root), splits={"train": "train2017", **SPLITS})
    assert [len(dataset.records(split)) for split in ("train", "test")] == [1, 2]
    with pytest.raises(InputError, match="'val'"):
        dataset.records("val")
    write(root, "train2017", categories=[*CATEGORIES, {"id": 1, "name": "person"}])
    with pytest.raises(InputError, match=r"instances_val2017\.json.*train"):
        COCO(root=str(root), splits={"train": "train2017", **SPLITS}).records("test")


@pytest.mark.parametrize("name", ["val2017", "annotations/instances_val2017.json"])
def test_what_is_missing_is_named_with_where_to_get_it(root: Path, tmp_path: Path, name: str) -> None:
    (root / name).rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"{name}: .*val2017\.zip.*annotations_trainval2017\.zip.*cocodataset\.org"):
        coco(root)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"images": [{"id": 7, "file_name": "7.jpg"}]}, "height"),
        ({"annotations": [annotation(99, 18, CAT)]}, "99"),
        ({"annotations": [annotation(7, 1, CAT)]}, "1"),
        ({"annotations": [{**annotation(7, 18, CAT), "area": None}]}, "float"),
        ({"categories": 3}, "int"),
    ],
)
def test_a_file_of_another_form_is_named(root: Path, changes: dict[str, Any], culprit: str) -> None:
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=rf"instances_val2017\.json.*{culprit}"):
        coco(root).records("test")


def test_an_image_that_is_named_twice_is_named(root: Path) -> None:
    images = [{"id": number, "file_name": "same.jpg", "height": HEIGHT, "width": WIDTH} for number in (7, 5)]
    write(root, images=images)
    with pytest.raises(InputError, match=r"instances_val2017\.json.*same\.jpg twice"):
        coco(root).records("test")


def test_a_damaged_file_is_named(root: Path) -> None:
    (root / "annotations/instances_val2017.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"instances_val2017\.json"):
        coco(root).records("test")


def test_images_and_masks_that_do_not_fit_are_named(root: Path) -> None:
    dataset = coco(root)
    record = dataset.records("test")[1]
    paint(Path(record.path), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    for read in (dataset.mask, dataset.instances):
        with pytest.raises(InputError, match=r"instances_val2017\.json.*30x20.*000000000007\.jpg 20x30"):
            read(record)
    Path(record.path).unlink()
    with pytest.raises(InputError, match=r"000000000007\.jpg.*instances_val2017\.json"):
        dataset.records("test")


def test_instances_without_a_pixel_and_segmentations_of_another_form_are_named(root: Path) -> None:
    outside = annotation(7, 17, (100, 100, 110, 110))
    write(root, annotations=[outside, annotation(7, 18, SMALL_DOG)])
    dataset = coco(root)
    (record,) = dataset.records("test")
    assert [name for name, _ in dataset.instances(record)] == ["dog"]
    with pytest.raises(InputError, match=r"instances_val2017\.json.*empty.*cat"):
        dataset.mask(record)
    write(root, annotations=[{**outside, "segmentation": [[1, 2]]}])
    with pytest.raises(InputError, match=r"instances_val2017\.json.*000000000007\.jpg.*corners"):
        coco(root).instances(record)


@real
def test_masks_of_the_real_part_have_the_areas_that_its_file_states() -> None:
    dataset = COCO(root=str(REAL), splits={"test": "train2017"})
    content = json.loads((REAL / "annotations/instances_train2017.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    files = {entry["id"]: entry["file_name"] for entry in content["images"]}
    stated: dict[str, list[tuple[float, str, float]]] = {}
    for entry in content["annotations"]:
        perimeter = 2 * sum(entry["bbox"][2:])
        stated.setdefault(files[entry["image_id"]], []).append((entry["area"], names[entry["category_id"]], perimeter))
    records = dataset.records("test")
    assert {record.image_id for record in records} == set(stated)
    assert list(dataset.classes) == [names[number] for number in sorted(names)]
    compared = close = 0
    for record in records[::6]:
        found = [(int(mask.sum()), name) for name, mask in dataset.instances(record)]
        assert found == sorted(found, key=lambda pair: -pair[0])
        areas = sorted(area for area, _, _ in stated[record.image_id] if area > 400)
        pixels = sorted(count for count, _ in found)[len(found) - len(areas) :]
        edge = max(perimeter for *_, perimeter in stated[record.image_id])  # where a polygon cuts through pixels
        close += int(np.isclose(pixels, areas, rtol=0.02, atol=0.1 * edge).sum())
        compared += len(areas)
    assert close > 0.97 * compared > 50  # the file's own areas are not all those of its polygons


@real
def test_the_label_of_a_real_photograph_is_in_it_and_its_mask_not_smaller_than_its_largest_instance() -> None:
    dataset = COCO(root=str(REAL), splits={"test": "train2017"})
    for record in dataset.records("test")[::10]:
        mine = [mask for name, mask in dataset.instances(record) if name == dataset.classes[record.label]]
        mask = dataset.mask(record)
        assert mask.shape == dataset.image(record).shape[:2]
        np.testing.assert_array_equal(mask, np.logical_or.reduce(mine))


@pytest.mark.parametrize(
    ("form", "place"),
    [
        ("seq/{}", "val2017/seq/{}"),
        ("./{}", "val2017/{}"),
        ("seq\\{}", "val2017/seq/{}"),
        ("val2017/{}", "val2017/{}"),
        ("photos/{}", "photos/{}"),
        ("/data/export/{}", "val2017/{}"),
    ],
)
def test_images_named_with_folders_and_without_areas_are_as_the_others(tmp_path: Path, form: str, place: str) -> None:
    plain = write(tmp_path / "plain")
    content = json.loads(json.dumps(plain))
    for entry in content["images"]:
        target = tmp_path / "tools" / place.format(entry["file_name"])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / "plain/val2017" / entry["file_name"]).read_bytes())
        entry["file_name"] = form.format(entry["file_name"])
    for each in content["annotations"]:
        del each["area"]
    (tmp_path / "tools/val2017").mkdir(exist_ok=True)
    (tmp_path / "tools/annotations").mkdir()
    (tmp_path / "tools/annotations/instances_val2017.json").write_text(json.dumps(content))
    one, other = coco(tmp_path / "plain"), coco(tmp_path / "tools")
    records, others = one.records("test"), coco(tmp_path / "tools").records("test")
    assert [record.label for record in records] == [record.label for record in others]
    for record, same in zip(records, others, strict=True):
        np.testing.assert_array_equal(one.mask(record), other.mask(same))


def test_an_image_outside_the_folder_is_named(root: Path) -> None:
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../../secret.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"instances_val2017\.json.*\.\./\.\./secret\.jpg leaves"):
        coco(root).records("test")
