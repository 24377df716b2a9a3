"""The embedded data set: draws that depend on the id alone, exact masks, and classes that need a network."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

import xconsensus
from xconsensus.datasets import load
from xconsensus.datasets.records import Record
from xconsensus.datasets.shapes import PATTERNS, SHAPES, Shapes
from xconsensus.errors import InputError

_Floats: TypeAlias = NDArray[np.float64]
_Labels: TypeAlias = NDArray[np.int_]

SPLITS = {"train": 600, "test": 240, "explain": 29}


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes(seed=0, splits=SPLITS)


def relabelled(record: Record, *, pattern: str | None = None, shape: str | None = None) -> Record:
    """The same draw with another pattern or shape."""
    old_pattern, old_shape = Shapes.classes[record.label].split("-")
    return replace(record, label=Shapes.classes.index(f"{pattern or old_pattern}-{shape or old_shape}"))


def test_image_depends_on_id_and_seed_not_on_order_or_other_images(shapes: Shapes) -> None:
    records = shapes.records("explain")
    forward = [shapes.image(record) for record in records]
    other = Shapes(seed=0, splits={"explain": 400})
    backward = [other.image(record) for record in reversed(records)]
    np.testing.assert_array_equal(forward, backward[::-1])
    assert (Shapes(seed=1, splits=SPLITS).image(records[0]) != forward[0]).any()


def test_another_process_draws_the_same_image_and_mask(shapes: Shapes) -> None:
    program = (
        "import hashlib; from xconsensus.datasets.shapes import Shapes;"
        "s = Shapes(seed=0, splits={'test': 3}); r = s.records('test')[2];"
        "print(hashlib.sha256(s.image(r).tobytes() + s.mask(r).tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(xconsensus.__file__).parents[1])}
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=environment, capture_output=True, check=True)
    record = Shapes(seed=0, splits={"test": 3}).records("test")[2]
    here = hashlib.sha256(shapes.image(record).tobytes() + shapes.mask(record).tobytes()).hexdigest()
    assert printed.stdout.decode().strip() == here


def test_records_are_balanced_sorted_and_unique_across_splits(shapes: Shapes) -> None:
    ids = []
    for split, number in SPLITS.items():
        records = shapes.records(split)
        counts = Counter(record.label for record in records)
        assert len(records) == number
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == len(shapes.classes)
        assert [r.image_id for r in records] == sorted(r.image_id for r in records)
        assert all(shapes.classes[record.label] in record.image_id for record in records)
        ids += [record.image_id for record in records]
    assert len(set(ids)) == len(ids)


def test_same_class_and_index_in_two_splits_are_two_draws(shapes: Shapes) -> None:
    train, test = shapes.records("train")[0], shapes.records("test")[0]
    assert train.label == test.label
    assert (shapes.image(train) != shapes.image(test)).mean() > 0.5


def test_classes_are_every_pattern_with_every_shape(shapes: Shapes) -> None:
    assert len(shapes.classes) >= 10
    assert list(shapes.classes) == sorted(f"{pattern}-{shape}" for pattern in PATTERNS for shape in SHAPES)


def test_changing_the_pattern_changes_the_pixels_of_the_mask_and_no_other(shapes: Shapes) -> None:
    for record in shapes.records("explain"):
        mask, images = shapes.mask(record), []
        for pattern in PATTERNS:
            twin = relabelled(record, pattern=pattern)
            np.testing.assert_array_equal(shapes.mask(twin), mask)
            images.append(shapes.image(twin).astype(int))
        changed = np.ptp(images, axis=0).max(axis=-1) > 0
        assert not changed[~mask].any()
        # Somewhere in the object all six patterns may agree, and the outermost pixels are barely covered.
        assert changed[mask].mean() > 0.9


def test_changing_the_shape_changes_the_mask_and_nothing_outside_either(shapes: Shapes) -> None:
    for record in shapes.records("explain"):
        cross, disc = (relabelled(record, shape=shape) for shape in SHAPES)
        cross_mask, disc_mask = shapes.mask(cross), shapes.mask(disc)
        changed = (shapes.image(cross) != shapes.image(disc)).any(axis=-1)
        assert (cross_mask != disc_mask).sum() > 0.2 * disc_mask.sum()
        assert not changed[~(cross_mask | disc_mask)].any()


@pytest.mark.parametrize(("resize", "size"), [(73, 64), (256, 224), (40, 35)])
def test_object_lies_inside_the_centre_crop_and_fills_a_fair_part_of_it(resize: int, size: int) -> None:
    shapes = Shapes(seed=3, resize=resize, splits={"test": 60})
    margin = (resize - size) // 2
    for record in shapes.records("test"):
        mask = shapes.mask(record)
        visible = mask[margin : margin + size, margin : margin + size]
        assert mask.shape == (resize, resize)
        assert visible.sum() == mask.sum()
        assert 0.08 < visible.mean() < 0.6


def test_object_shows_dark_and_light_in_every_image(shapes: Shapes) -> None:
    for record in shapes.records("explain"):
        brightness = shapes.image(record)[shapes.mask(record)].mean(axis=-1)
        assert np.mean(brightness < 90) > 0.05
        assert np.mean(brightness > 165) > 0.05


def test_another_size_shows_the_same_scene(shapes: Shapes) -> None:
    large = Shapes(seed=0, resize=3 * 73, splits=SPLITS)
    for record in shapes.records("explain"):
        image, mask = shapes.image(record).astype(float), shapes.mask(record)
        reduced = large.image(record).reshape(73, 3, 73, 3, 3).mean(axis=(1, 3))
        reduced_mask = large.mask(record).reshape(73, 3, 73, 3).any(axis=(1, 3))
        assert np.corrcoef(image.ravel(), reduced.ravel())[0, 1] > 0.9
        assert (mask & reduced_mask).sum() > 0.9 * (mask | reduced_mask).sum()


def ridge_scores(train: _Floats, train_labels: _Labels, test: _Floats, test_labels: _Labels) -> list[float]:
    """Accuracy on both sets of a linear classifier: penalised least squares on standardised features."""
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-9
    inputs, targets = (train - mean) / scale, np.eye(train_labels.max() + 1)[train_labels]
    weights = np.linalg.solve(inputs.T @ inputs + len(train) * np.eye(inputs.shape[1]), inputs.T @ targets)
    pairs = ((train, train_labels), (test, test_labels))
    return [float(np.mean(((x - mean) / scale @ weights).argmax(axis=1) == labels)) for x, labels in pairs]


@pytest.mark.parametrize("features", ["pixels", "colours"])
def test_linear_model_fails(shapes: Shapes, features: str) -> None:
    inputs, labels = {}, {}
    for split in ("train", "test"):
        records = shapes.records(split)
        images = np.stack([shapes.image(record)[4:68, 4:68] for record in records])
        if features == "pixels":
            inputs[split] = images.reshape(-1, 16, 4, 16, 4, 3).mean(axis=(2, 4)).reshape(len(images), -1)
        else:
            cubes = images.reshape(len(images), -1, 3) // 64 @ (1, 4, 16)
            inputs[split] = np.stack([np.bincount(cube, minlength=64) for cube in cubes]).astype(float)
        labels[split] = np.array([record.label for record in records])
    train, test = ridge_scores(inputs["train"], labels["train"], inputs["test"], labels["test"])
    assert train > 0.25  # three times chance: it did learn what it was shown
    assert test < 0.3


def test_load_finds_the_data_set() -> None:
    dataset = load({"loader": "shapes", "seed": 0, "resize": 73, "splits": SPLITS})
    assert dataset.has_masks
    record = dataset.records("test")[0]
    assert dataset.image(record).shape == (73, 73, 3)
    assert dataset.image(record).dtype == np.uint8


def test_bad_input_names_the_key(shapes: Shapes) -> None:
    with pytest.raises(InputError, match="'val', only train, test, explain"):
        shapes.records("val")
    with pytest.raises(InputError, match=r"dataset\.splits\.train=0"):
        Shapes(seed=0, splits={"train": 0}).records("train")
    with pytest.raises(InputError, match=r"dataset\.seed=-1"):
        Shapes(seed=-1, splits={})
    with pytest.raises(InputError, match=r"dataset\.resize=8"):
        Shapes(seed=0, resize=8, splits={})
    with pytest.raises(InputError, match=r"dataset\.splits\.test=-2"):
        Shapes(seed=0, splits={"test": -2})


@pytest.mark.parametrize("objects", [2, 3, 4])
def test_several_objects_lie_apart_inside_the_visible_part_and_alone_make_the_image(objects: int) -> None:
    dataset = Shapes(seed=0, objects=objects, splits={"test": 20})
    records = dataset.records("test")
    assert {record.label for record in records} == {-1}
    assert len({record.image_id for record in records}) == 20
    for record in records:
        found = dataset.instances(record)
        assert len({name for name, _ in found}) == objects
        assert {name for name, _ in found} <= set(dataset.classes)
        areas = [int(mask.sum()) for _, mask in found]
        assert areas == sorted(areas, reverse=True)
        together = sum(mask.astype(int) for _, mask in found)
        assert np.max(together) == 1
        assert sum(areas) == np.sum(np.asarray(together)[4:68, 4:68])
        np.testing.assert_array_equal(dataset.mask(record), found[0][1])


def test_a_single_object_is_the_only_instance() -> None:
    dataset = Shapes(seed=3, splits={"test": 12})
    for record in dataset.records("test"):
        ((name, mask),) = dataset.instances(record)
        assert name == dataset.classes[record.label]
        np.testing.assert_array_equal(mask, dataset.mask(record))


@pytest.mark.parametrize("objects", [0, 5])
def test_other_numbers_of_objects_are_refused(objects: int) -> None:
    with pytest.raises(InputError, match=f"dataset.objects={objects}"):
        Shapes(seed=0, objects=objects, splits={"test": 12})
