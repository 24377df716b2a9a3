"""Boxes and masks of maps, in the pixels of whole images: against closed forms, scikit-image and torchvision."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import Project, paint
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from xconsensus.compat import torchvision
from xconsensus.datasets import Record
from xconsensus.datasets.coco_masks import rasterise, run_lengths
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.images import crop_edges
from xconsensus.datasets.own import OwnDataset
from xconsensus.errors import InputError
from xconsensus.experiment.locating import category_of, file_stems
from xconsensus.figures.overlay import overlay
from xconsensus.scores import locations
from xconsensus.scores.locations import Object
from xconsensus.store.files import read_csv, read_json

RNG = np.random.default_rng(0)
SIZES = [(48, 64), (64, 48), (40, 40), (31, 77), (20, 20), (120, 80), (301, 433)]  # of images resized to 40, cut to 32

# An explainer that points at what is bright, and loaders' images whose object is.
BRIGHT = """\
from dataclasses import dataclass

import torch

from xconsensus.explainers import Explanation


@dataclass(frozen=True)
class Bright:
    on_superpixels = False

    def passes(self):
        return 1, 0

    def __call__(self, network, image, batch_size):
        bright = torch.from_numpy(image.pixels).float().mean(-1)
        predicted, probability = network.label(network.normalise(torch.from_numpy(image.pixels).permute(2, 0, 1)))
        return Explanation((bright > 127).float() - 0.25, predicted, probability)
"""


def object_of(mask: NDArray[np.bool_]) -> tuple[CroppedImages, Record]:
    """Images of which one has this mask (H, W)."""

    class One:
        classes = ("thing",)
        has_masks = True

        def records(self, _: str) -> list[Record]:
            return [Record("a", 0)]

        def image(self, _: Record) -> NDArray[np.uint8]:
            return np.repeat(mask[..., None] * np.uint8(255), 3, 2)

        def mask(self, _: Record) -> NDArray[np.bool_]:
            return mask

    return CroppedImages(OwnDataset(One(), "one.py:One"), resize=40, size=32), Record("a", 0)


def rectangle(shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """A mask in the inner part that the crop keeps, and its box."""
    height, width = shape
    side = min(shape)
    left, top = width // 2 - side // 5, height // 2 - side // 4
    right, bottom = width // 2 + side // 4, height // 2 + side // 6
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask, np.array([left, top, right, bottom])


# --- crop and resize undone ---


@pytest.mark.parametrize(("length", "resized", "size"), [(64, 53, 32), (48, 40, 32), (20, 40, 32), (40, 40, 40), (433, 58, 32), (7, 7, 4)])  # fmt: skip
def test_edges_say_in_which_explained_pixel_a_pixel_s_centre_lies(length: int, resized: int, size: int) -> None:
    edges = crop_edges(length, resized, size)
    first = (resized - size) // 2
    centres = (np.arange(length) + 0.5) * resized / length - first
    for k in range(size):
        np.testing.assert_array_equal(
            np.flatnonzero((centres >= k) & (centres < k + 1)), np.arange(edges[k], edges[k + 1])
        )


@pytest.mark.parametrize("shape", SIZES)
def test_the_box_of_the_mask_as_it_is_explained_is_the_mask_s_own(shape: tuple[int, int]) -> None:
    mask, box = rectangle(shape)
    images, record = object_of(mask)
    place, explained = images.place(record), images.mask(record)
    found = place.boxes(locations.boxes_at(explained.astype(float), [0.5]))[0]
    scale = min(shape) / 40  # pixels of the whole image in an explained one
    assert np.abs(found - box).max() <= max(1, scale / 2 + 0.5)
    whole = place.undone(explained, outside=False)
    assert whole.shape == shape
    if scale >= 1:  # no explained pixel falls between pixels
        np.testing.assert_array_equal(locations.bounding_box(whole), found)


@pytest.mark.parametrize("shape", SIZES)
def test_counts_are_those_of_a_loop(shape: tuple[int, int]) -> None:
    mask = RNG.random(shape) < 0.3
    images, record = object_of(mask)
    place = images.place(record)
    numbers = place.undone(np.arange(32 * 32).reshape(32, 32), outside=-1)
    expected = np.bincount(numbers[mask & (numbers >= 0)], minlength=32 * 32).reshape(32, 32)
    np.testing.assert_array_equal(place.counts(mask), expected)


def test_a_map_keeps_its_values_and_has_none_outside_of_the_crop() -> None:
    images, record = object_of(np.ones((80, 120), dtype=bool))  # twice as large as what is cut: 32 of 40 and of 60
    values = RNG.random((32, 32)).astype(np.float32)
    whole = images.place(record).undone(values, outside=np.nan)
    np.testing.assert_array_equal(whole[8:72:2, 28:92:2], values)
    np.testing.assert_array_equal(whole[9:72:2, 29:92:2], values)
    assert np.isnan(whole).sum() == 80 * 120 - 64 * 64


def test_an_explained_pixel_between_pixels_still_has_a_box() -> None:
    images, record = object_of(np.ones((5, 5), dtype=bool))
    place = images.place(record)
    single = np.eye(32, dtype=bool)[:, :, None] & np.eye(32, dtype=bool)[:, None]  # each diagonal pixel alone
    for mask in single:
        left, top, right, bottom = place.boxes(locations.bounding_box(mask)[None])[0]
        assert 0 <= left < right <= 5
        assert 0 <= top < bottom <= 5


# --- maps to boxes ---


def test_a_map_is_scaled_to_its_positive_part() -> None:
    np.testing.assert_allclose(locations.scaled([[-3, 1, 2]]), [[0, 0.5, 1]])
    np.testing.assert_allclose(locations.scaled([[1, 2, 5]]), [[0, 0.25, 1]])


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.ones((4, 4)), -np.eye(4)])
def test_a_map_that_points_nowhere_has_no_box(values: NDArray[np.float64]) -> None:
    scaled = locations.scaled(values)
    assert locations.boxes_at(scaled).shape == (0, 4)
    assert not locations.component(scaled, 0).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        locations.scaled([[1, bad]])


@pytest.mark.parametrize("levels", [2, 3, 20, 256])
def test_otsu_parts_values_as_scikit_image_does(levels: int) -> None:
    image = (RNG.integers(0, levels, (40, 40)) * (255 // (levels - 1))).astype(np.uint8)
    image[10:25, 10:25] //= 3
    np.testing.assert_array_equal(image >= locations.otsu(image.astype(float)), image > threshold_otsu(image))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.6, 0.8])
def test_the_largest_part_is_that_of_scikit_image(threshold: float) -> None:
    values = RNG.random((30, 40))
    parts = regionprops(label(values >= threshold, connectivity=2))
    largest = max(parts, key=lambda part: part.area)
    top, left, bottom, right = largest.bbox
    assert locations.component(values, threshold).sum() == largest.area
    np.testing.assert_array_equal(locations.boxes_at(values, [threshold]), [[left, top, right, bottom]])


def test_boxes_at_many_thresholds_are_those_at_each() -> None:
    values = locations.scaled(RNG.integers(0, 5, (20, 20)))  # few values: most thresholds part them alike
    each = [locations.bounding_box(locations.component(values, threshold)) for threshold in locations.THRESHOLDS]
    np.testing.assert_array_equal(locations.boxes_at(values), each)


# --- how well boxes meet objects ---


def test_box_iou_is_torchvision_s() -> None:
    corners = np.sort(RNG.integers(0, 50, (40, 2, 2)), axis=1)
    corners[:, 1] += 1
    boxes = corners.reshape(-1, 4)
    expected = torchvision.ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes[:1]))[:, 0]
    np.testing.assert_allclose(locations.box_iou(boxes, boxes[0]), expected, rtol=1e-6)


def test_a_centred_box_meets_a_centred_object_of_its_size() -> None:
    boxes = locations.centred_boxes((100, 200))
    np.testing.assert_array_equal(boxes[0], [0, 0, 200, 100])
    ious = locations.box_iou(boxes, np.array([50, 25, 150, 75]))  # half of each side
    assert ious[50] == 1
    np.testing.assert_allclose(ious[0], 0.25)


def test_max_box_accuracy_is_the_best_share() -> None:
    ious = np.array([[0.1, 0.5, 0.9, 0.4], [0.2, 0.6, 0.4, 0.3], [0.9, 0.1, 0.5, 0.0]])
    np.testing.assert_allclose(locations.box_accuracy(ious), [1 / 3, 2 / 3, 2 / 3, 0])
    best, place = locations.max_box_accuracy(ious)
    assert best == pytest.approx(2 / 3)
    assert place == 1


@pytest.mark.parametrize("shape", SIZES)
def test_mask_iou_is_that_of_the_whole_pixels_that_count(shape: tuple[int, int]) -> None:
    void = RNG.random(shape) < 0.2
    mask = (RNG.random(shape) < 0.4) & ~void
    images, record = object_of(mask)
    place, spot = images.place(record), RNG.random((32, 32)) < 0.5
    found = place.undone(spot, outside=False) & ~void
    seen = Object(locations.bounding_box(mask), place.counts(mask), place.counts(~void), int(mask.sum()))
    assert seen.iou(spot) == pytest.approx((found & mask).sum() / (found | mask).sum())


def test_an_unknown_label_gives_way_to_what_is_predicted() -> None:
    predicted = {"one": 2, "two": 5, "three": 5}
    maps: Any = SimpleNamespace(
        members=predicted, shards=lambda name: SimpleNamespace(number=lambda *_: float(predicted[name]))
    )
    assert category_of(maps, "consensus", Record("a", 7)) == 7
    assert category_of(maps, "consensus", Record("a", -1)) == 5
    assert category_of(maps, "one", Record("a", -1)) == 2


# --- files ---


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_run_lengths_are_read_back(share: float) -> None:
    mask = RNG.random((7, 5)) < share
    np.testing.assert_array_equal(rasterise(run_lengths(mask), 7, 5), mask)


def test_run_lengths_go_down_the_columns_and_begin_with_what_is_off() -> None:
    assert run_lengths(np.array([[1, 0], [1, 1]], dtype=bool)) == {"size": [2, 2], "counts": [0, 2, 1, 1]}


def test_an_overlay_frames_the_box_and_leaves_grey_what_was_not_explained() -> None:
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    strength = np.zeros((40, 60), np.uint8)
    strength[10:30, 20:40] = 255
    found = overlay(image, strength, np.array([20, 10, 40, 30]))
    blue = (found == (0, 114, 178)).all(-1)
    assert blue.sum() == 4 * 19
    np.testing.assert_array_equal(locations.bounding_box(blue), [20, 10, 40, 30])
    assert (np.ptp(found[strength == 0], axis=1) == 0).all()
    np.testing.assert_array_equal(found[11:29, 21:39] - found[15, 25], 0)


def test_files_are_named_as_their_images_or_told_apart() -> None:
    assert file_stems(["cat/0.png", "dog/0.JPEG", "v1.2"]) == ["cat/0", "dog/0", "v1.2"]
    assert file_stems(["cat/0.png", "cat/0.jpg"]) == ["cat/0.png", "cat/0.jpg"]
    odd = file_stems(["../../etc", "/etc", ".a/b", "", "ok", "c\0"])
    assert odd[4] == "ok"
    assert len(set(odd)) == 6
    assert all(stem.isalnum() for stem in odd)


# --- the command ---


@pytest.fixture
def bright(photographs: Project) -> Project:
    """Photographs of several sizes whose object is white on black, explained by what is bright, and voted on."""
    for number, shape in enumerate(SIZES[:6]):
        mask, _ = rectangle(shape)
        name = f"{('cat', 'dog')[number // 3]}/{number % 3}.png"
        paint(photographs.folder / "images" / name, np.repeat(mask[..., None], 3, 2) * np.uint8(255))
        paint(photographs.folder / "masks" / name, mask * np.uint8(255))
    (photographs.folder / "bright.py").write_text(BRIGHT)
    (photographs.folder / "conf/explainer").mkdir()
    (photographs.folder / "conf/explainer/bright.yaml").write_text(
        f"name: bright\nmethod: {photographs.folder}/bright.py:Bright\nvote: min_max\nsimilarity: rbf\nsigma: 5\n"
    )
    project = Project(
        photographs.folder, (*(a for a in photographs.arguments if "samples" not in a), "explainer=bright")
    )
    for stage in ("finetune", "explain", "vote"):
        project.done(stage)
    return project


def whole(project: Project, image_id: str) -> NDArray[np.bool_]:
    return np.asarray(Image.open(project.folder / "masks" / image_id)) > 0


def test_boxes_masks_and_maps_lie_on_the_whole_photographs(bright: Project) -> None:
    bright.done("locate", "locate.members=[second]")
    folder = bright.outputs / "pets/locations/grids/bright"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"consensus", "second"}
    for name, low in (("consensus", 0), ("second", -0.25)):
        boxes = read_csv(folder / name / "boxes.csv").set_index("image_id")
        coco = json.loads((folder / name / "coco.json").read_text())
        assert len(boxes) == len(coco["images"]) == len(coco["annotations"]) == 6
        assert [each["name"] for each in coco["categories"]] == ["cat", "dog"]
        sizes = {each["id"]: each for each in coco["images"]}
        for annotation in coco["annotations"]:
            image_id = sizes[annotation["image_id"]]["file_name"]
            truth, row = whole(bright, image_id), boxes.loc[image_id]
            height, width = truth.shape
            assert (sizes[annotation["image_id"]]["width"], sizes[annotation["image_id"]]["height"]) == (width, height)
            assert coco["categories"][annotation["category_id"] - 1]["name"] == image_id.split("/")[0]
            left, top, wide, tall = annotation["bbox"]
            assert [left, top, wide, tall] == row[["left", "top", "width", "height"]].tolist()
            near = max(1, min(truth.shape) / 80 + 0.5)
            assert np.abs(np.array([left, top, left + wide, top + tall]) - locations.bounding_box(truth)).max() <= near
            assert row["mask_iou"] > 0.85
            written = np.asarray(Image.open(folder / name / "masks" / image_id))
            assert set(np.unique(written)) == {0, 255}
            np.testing.assert_array_equal(rasterise(annotation["segmentation"], height, width), written > 0)
            assert annotation["area"] == (written > 0).sum()
            values = tifffile.imread(folder / name / "maps" / f"{row['files']}.tif")
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values == values[written > 0].max(), written > 0)
            assert np.nanmin(values) == pytest.approx(low, abs=1e-3)  # maps are packed as float16
            assert np.asarray(Image.open(folder / name / "overlays" / image_id)).shape == (height, width, 3)
    table = read_csv(folder / "locations.csv")
    assert table["member"].tolist() == ["consensus", "first", "second", "third", "fourth", "centred box"]
    assert (table["box_accuracy"][:-1] == 1).all()
    assert (table["max_box_accuracy"][:-1] == 1).all()


def test_the_table_is_that_of_the_files(scored: Project) -> None:
    scored.done("locate", "explainer=lime", "locate.members=[first]", "locate.threshold=0.4")
    folder = scored.outputs / "pets/locations/grids/lime"
    table = read_csv(folder / "locations.csv").set_index("member")
    assert read_json(folder / "locations.json")["settings"]["threshold"] == 0.4
    for name in ("consensus", "first"):
        boxes = read_csv(folder / name / "boxes.csv")
        box_ious, mask_ious = [], []
        for image_id in boxes["image_id"]:
            truth = whole(scored, image_id)
            found = np.asarray(Image.open(folder / name / "masks" / image_id)) > 0
            mask_ious.append((found & truth).sum() / (found | truth).sum())
            rectangles = []
            for mask in (found, truth):
                rectangle = np.zeros_like(mask)
                left, top, right, bottom = locations.bounding_box(mask) if mask.any() else [0] * 4
                rectangle[top:bottom, left:right] = True
                rectangles.append(rectangle)
            box_ious.append((rectangles[0] & rectangles[1]).sum() / (rectangles[0] | rectangles[1]).sum())
        np.testing.assert_allclose(boxes["mask_iou"], mask_ious)
        np.testing.assert_allclose(boxes["box_iou"], box_ious)
        row = table.loc[name]
        assert row["mask_iou"] == pytest.approx(np.mean(mask_ious))
        assert row["box_iou"] == pytest.approx(np.mean(box_ious))
        assert row["box_iou_low"] <= row["box_iou"] <= row["box_iou_high"]
        assert row["box_accuracy"] == np.mean(np.array(box_ious) >= 0.5)
        assert row["max_box_accuracy"] >= row["box_accuracy"]
        assert row["without_box"] == boxes["left"].isna().sum()
        assert len(read_json(folder / name / "coco.json")["annotations"]) == 6 - row["without_box"]


def times(project: Project) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in project.outputs.rglob("locations/**/*") if path.is_file()}


def test_a_second_run_finds_it_done_and_another_member_is_added(scored: Project) -> None:
    first = scored.done("locate", "explainer=lime")
    before = times(scored)
    second = scored.done("locate", "explainer=lime")
    assert (second.out, times(scored)) == (first.out, before)
    scored.done("locate", "explainer=lime", "locate.members=[first]")
    after = times(scored)
    assert {name: after[name] for name in before} == before
    assert all("/lime/first/" in name for name in {*after} - {*before})
    assert len(after) - len(before) == 3 * 6 + 3


def test_a_run_that_was_cut_short_is_gone_on_with(scored: Project) -> None:
    scored.done("locate", "explainer=lime", "locate.members=[first]")
    before, folder = scored.files(), scored.outputs / "pets/locations/grids/lime"
    (folder / "first/boxes.csv").unlink()
    (folder / "first/masks/cat/0.png").unlink()
    (folder / "locations.csv").unlink()
    kept = (folder / "consensus/boxes.csv").stat().st_mtime_ns
    scored.done("locate", "explainer=lime", "locate.members=[first]")
    assert scored.files() == before
    assert (folder / "consensus/boxes.csv").stat().st_mtime_ns == kept


def test_other_settings_stop_until_they_may_overwrite(scored: Project) -> None:
    scored.done("locate", "explainer=lime", "locate.threshold=otsu")
    before = scored.files()
    outcome = scored.run("locate", "explainer=lime", "locate.threshold=0.4")
    assert outcome.code == 2
    assert "threshold is otsu there, 0.4 now" in outcome.errors[0]
    assert outcome.errors[0].endswith("or xconsensus locate overwrite=true")
    assert scored.files() == before
    scored.done("locate", "explainer=lime", "locate.threshold=0.4", "overwrite=true")
    assert scored.files() != before
    scored.done("locate", "explainer=lime", "locate.threshold=otsu", "overwrite=true")
    assert scored.files() == before


def test_an_object_that_has_moved_since_is_seen(scored: Project) -> None:
    scored.done("locate", "explainer=lime")
    mask = np.zeros((48, 64), np.uint8)
    mask[0:20, 0:20] = 255
    paint(scored.folder / "masks/cat/0.png", mask)
    outcome = scored.run("locate", "explainer=lime")
    assert outcome.code == 2
    assert "masks.contents is another now" in outcome.errors[0]


def test_without_masks_there_is_no_table_and_a_dry_run_writes_nothing(scored: Project) -> None:
    before = scored.files()
    outcome = scored.done("locate", "explainer=lime", "dry_run=true")
    assert "locate would write" in outcome.err
    assert scored.files() == before
    scored.done("locate", "explainer=lime", "dataset.masks=null")
    folder = scored.outputs / "pets/locations/grids/lime"
    assert not (folder / "locations.csv").exists()
    boxes = pd.read_csv(folder / "consensus/boxes.csv")
    assert len(boxes) == 6
    assert "mask_iou" not in boxes


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("locate.members=[frist]", "first"),
        ("locate.members=first", "[first]"),
        ("locate.threshold=ots", "otsu"),
        ("locate.threshold=0", "not above 0"),
        ("locate.threshold=2", "more than 1"),
        ("locate.threshold=null", "otsu"),
        ("locate.threshold=true", "not otsu or a number"),
        ("shards=2", "not shared"),
    ],
)
def test_bad_settings_are_one_line(scored: Project, setting: str, says: str) -> None:
    before = scored.files()
    outcome = scored.run("locate", "explainer=lime", setting)
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert says in outcome.errors[0]
    assert scored.files() == before


def test_the_stage_that_is_missing_is_named(explained: Project) -> None:
    outcome = explained.run("locate", "explainer=lime")
    assert outcome.code == 2
    assert "run xconsensus vote" in outcome.errors[0]


@pytest.mark.parametrize(
    ("stage", "name"),
    [*((stage, "consensus") for stage in ("finetune", "plot", "locate", "run", "status")), ("locate", "centred box")],
)
def test_names_of_rows_are_no_member_s(photographs: Project, stage: str, name: str) -> None:
    committee = photographs.folder / "conf/committee/grids.yaml"
    committee.write_text(committee.read_text().replace("  fourth:", f"  {name}:"))
    outcome = photographs.run(stage)
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert f"member {name}: this is a row's name in the tables" in outcome.errors[0]
    assert not photographs.outputs.exists()
