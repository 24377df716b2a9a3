"""The first classes of a data set, in place of all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import paint

from xconsensus import datasets
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.errors import InputError

SHAPES = {"loader": "shapes", "seed": 0, "objects": 1, "resize": 73, "splits": {"train": 60, "test": 40}}
GREY = np.full((6, 9, 3), 90, np.uint8)


def folders(root: Path) -> dict[str, Any]:
    for name in ("10", "9", "8", "a"):
        paint(root / f"test/{name}/0.png", GREY)
    return {"loader": "imagefolder", "root": str(root), "splits": {"test": "test"}, "classes": ["9", "a", "10", "8"]}


def test_images_and_labels_of_the_first_classes_are_those_of_the_whole_data_set() -> None:
    every, some = datasets.load(SHAPES), datasets.load({**SHAPES, "first_classes": 3})
    assert some.classes == every.classes[:3]
    for split in ("train", "test"):
        assert some.records(split) == [record for record in every.records(split) if record.label < 3]
    record = some.records("test")[0]
    np.testing.assert_array_equal(some.image(record), every.image(record))
    np.testing.assert_array_equal(some.mask(record), every.mask(record))
    for settings in (datasets.image_settings, datasets.mask_settings):
        assert settings(some, {**SHAPES, "first_classes": 3}) == settings(every, {**SHAPES, "first_classes": None})


def test_first_means_in_the_order_that_dataset_classes_gives(tmp_path: Path) -> None:
    some = datasets.load({**folders(tmp_path), "first_classes": 2})
    assert [record.image_id for record in some.records("test")] == ["test/9/0.png", "test/a/0.png"]
    record = some.records("test")[0]
    assert CroppedImages(some, 6, 6).source_size(record) == (9, 6)


def test_more_classes_than_there_are_and_unknown_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"first_classes=5: the data set has 4 classes$"):
        datasets.load({**folders(tmp_path), "first_classes": 5})
    (tmp_path / "own.py").write_text(
        "from xconsensus.datasets import Record\n"
        "class Own:\n    classes, has_masks = ('a', 'b', 'c'), False\n"
        "    def records(self, split): return [Record('x', -1, 'x.png'), Record('y', 2, 'y.png')]\n"
        "    def image(self, record): ...\n    def mask(self, record): ...\n"
    )
    own = datasets.load({"loader": f"{tmp_path}/own.py:Own", "first_classes": 2})
    with pytest.raises(InputError, match=r"first_classes=2: the label of image x\.png is unknown"):
        own.records("test")


def test_a_split_without_images_of_these_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from xconsensus.datasets import Record\n"
        "class Own:\n    classes, has_masks = ('a', 'b', 'c'), False\n"
        "    def records(self, split): return [Record('y', 2, 'y.png')]\n"
        "    def image(self, record): ...\n    def mask(self, record): ...\n"
    )
    with pytest.raises(InputError, match="split test has no image of these classes"):
        datasets.load({"loader": f"{tmp_path}/own.py:Own", "first_classes": 2}).records("test")
