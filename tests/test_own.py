"""What own loaders give as records, images and masks: turned into what is asked for, or refused."""

from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import paint
from PIL import Image

from xconsensus.compat import torchvision
from xconsensus.datasets import image_settings, load
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.own import OwnDataset
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

to_tensor = torchvision.transforms.functional.to_tensor

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
MASK = PIXELS[..., 0] > 100


def own(image: object = PIXELS, mask: object = MASK, **more: Any) -> OwnDataset:
    """A data set of two images, of which ``image`` may be a function of the record."""
    records = [Record("a", 0), Record("b", 1)]
    parts: dict[str, Any] = {"records": lambda _: records, "classes": ["x", "y"], "has_masks": True} | more
    for name, value in (("image", image), ("mask", mask)):
        parts[name] = value if callable(value) else lambda _, value=value: value
    return OwnDataset(SimpleNamespace(**parts), "own.py:Own")


FORMS = {
    "int64": PIXELS.astype(np.int64),
    "floats of 0..1": PIXELS / 255,
    "floats of 0..255": PIXELS.astype(np.float32),
    "floats a little beyond": np.where(PIXELS == 255, 1.01, np.where(PIXELS == 0, -0.01, PIXELS / 255)),
    "channels first": PIXELS.transpose(2, 0, 1),
    "a batch of one": PIXELS.transpose(2, 0, 1)[None],
    "opaque": np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)]),
    "ToTensor": to_tensor(Image.fromarray(PIXELS)),
    "bfloat16 that learns": to_tensor(Image.fromarray(PIXELS)).bfloat16().requires_grad_(),
    "tensor": torch.from_numpy(PIXELS),
    "PIL": Image.fromarray(PIXELS),
    "a list": PIXELS.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_of_one_meaning_become_rgb_of_bytes(form: str) -> None:
    found = own(FORMS[form]).image(Record("a", 0))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - PIXELS).max() <= (1 if "bfloat16" in form else 0)


@pytest.mark.parametrize("form", [MASK, MASK[..., None], MASK[None], torch.from_numpy(MASK)[None], Image.fromarray(MASK),
                                  MASK * 1, MASK * 255.0, MASK.astype(np.uint8) * 255, np.dstack([MASK * 255] * 3)])  # fmt: skip
def test_masks_of_one_meaning_become_bool(form: object) -> None:
    found = own(mask=form).mask(Record("a", 0))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, MASK)


@pytest.mark.parametrize(
    "form", [PIXELS[..., 0], PIXELS[..., :1], PIXELS[None, ..., 0], Image.fromarray(PIXELS[..., 0])]
)
def test_grey_is_repeated_unless_the_file_is_in_colour(tmp_path: Path, form: object) -> None:
    grey = np.repeat(PIXELS[..., :1], 3, 2)
    for path in ("", str(paint(tmp_path / "grey.png", grey)), "gone.png"):
        np.testing.assert_array_equal(own(form).image(Record("a", 0, path)), grey)
    if not isinstance(form, Image.Image):
        with pytest.raises(InputError, match=r"own\.py:Own: image\(\) gave .* for 'a'.*colour\.png is in colour"):
            own(form).image(Record("a", 0, str(paint(tmp_path / "colour.png", PIXELS))))


def test_transparent_pixels_are_white() -> None:
    clear = np.dstack([PIXELS, np.zeros((20, 30), np.uint8)])
    for form in (clear, clear.transpose(2, 0, 1), Image.fromarray(clear)):
        assert (own(form).image(Record("a", 0)) == 255).all()


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ((PIXELS / 255 - 0.45) / 0.22, "float64 .* from -2.045 to 2.5"),
        (PIXELS / 255 * 2 - 1, "from -1 to 1"),
        (PIXELS / 255.0 * 4, "from 0 to 4"),
        (PIXELS.astype(np.uint16) * 257, "uint16"),
        (PIXELS.astype(int) - 128, "from -128"),
        (PIXELS > 100, "bool"),
        ((PIXELS > 100).astype(int), "int64"),
        (np.where(PIXELS > 250, np.nan, PIXELS), "nan"),
        (PIXELS[..., :2], r"\(20, 30, 2\)"),
        (np.stack([PIXELS, PIXELS]), r"\(2, 20, 30, 3\)"),
        (PIXELS[:0], r"\(0, 30, 3\)"),
        (None, "NoneType"),
        ("a.png", "str"),
        ({"image": PIXELS}, "dict"),
    ],
)
def test_other_images_are_refused_in_a_line(form: object, words: str) -> None:
    with pytest.raises(InputError, match=rf"own\.py:Own: image\(\) gave .*{words}.* for 'b'.*uint8 RGB") as caught:
        own(form).image(Record("b", 0))
    assert "\n" not in str(caught.value)


def test_floats_of_two_ranges_are_refused() -> None:
    dataset = own(lambda record: {"a": PIXELS / 255, "b": PIXELS.astype(float), "black": PIXELS * 0.0}[record.image_id])
    assert not dataset.image(Record("black", 0)).any()
    dataset.image(Record("b", 0))
    assert not dataset.image(Record("black", 0)).any()
    with pytest.raises(InputError, match=r"0\.\.1 for 'a' and of 0\.\.255 for 'b'"):
        dataset.image(Record("a", 0))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (PIXELS[..., 0], "uint8"),
        (MASK * 2, "from 0 to 2"),
        (PIXELS[..., 0] / 255, "float64"),
        (PIXELS, "uint8"),
        (MASK.T, r"20x30 pixels, its image .*30x20"),
        (MASK & False, "empty"),
        (None, "NoneType"),
    ],
)
def test_other_masks_are_refused_in_a_line(form: object, words: str) -> None:
    with pytest.raises(InputError, match=rf"own\.py:Own.*{words}"):
        own(mask=form).mask(Record("a", 0))


def test_files_that_own_code_cannot_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(paint(tmp_path / "x.png", PIXELS).read_bytes()[:900])
    for name in ("bad.png", "gone.png"):
        with pytest.raises(InputError, match=r"own\.py:Own: image\(\) cannot read 'a'"):
            own(lambda _, name=name: Image.open(tmp_path / name)).image(Record("a", 0))


def test_ids_are_unique_or_named() -> None:
    twice = [Record("0.png", 0, "a/0.png"), Record("1.png", 0), Record("0.png", 1, "b/0.png")]
    with pytest.raises(
        InputError, match=r"own\.py:Own: image_id '0\.png' stands twice in split test \(a/0\.png and b/0\.png\)"
    ):
        own(records=lambda _: twice).records("test")
    assert own(records=lambda _: twice[:2]).records("test") == twice[:2]
    with pytest.raises(InputError, match="no Record"):
        own(records=lambda _: [Record(7, 0)]).records("test")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"caf\\xe9.*UTF-8"):
        own(records=lambda _: [Record("caf\udce9.png", 0)]).records("test")


def test_an_id_of_two_splits_is_not_taken_for_one_image() -> None:
    dataset = own(lambda record: np.full((32, 32, 3), record.label, np.uint8))
    images = CroppedImages(dataset, 32, 32, room=2**20)
    assert [images.image(Record("0.png", label)).max() for label in (7, 9)] == [7, 9]


def test_everything_else_is_the_own_code_s(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text(
        "class Many:\n    classes, has_masks, image_keys = ['a'], True, ('tint',)\n"
        "    def __init__(self, tint, white=None): self.tint, self.white = tint, white\n"
        "    def records(self, split): return []\n"
        "    def image(self, record): raise KeyError(record)\n    mask = image\n"
        "    def instances(self, record): return [('cup', [[0, 1], [0, 0]])]\n"
    )
    group = {"loader": f"{tmp_path}/many.py:Many", "tint": 3, "size": 32, "resize": 32}
    dataset: Any = load(group)
    assert (dataset.classes, dataset.tint, copy(dataset).tint) == (["a"], 3, 3)
    assert image_settings(dataset, group).keys() == {"size", "resize", "tint", "loader"}
    with pytest.raises(KeyError):  # a defect of theirs keeps its traceback
        dataset.image(Record("a", 0))
    given: Any = load({**group, "white": 4095})
    assert given.white == 4095
    assert image_settings(given, {**group, "white": 4095})["white"] == 4095
    assert "white" not in image_settings(dataset, {**group, "white": None})


@pytest.mark.parametrize("white", ["bright", 0, -1, True])
def test_a_white_that_is_no_value_is_refused(tmp_path: Path, white: object) -> None:
    paint(tmp_path / "a/0.png", PIXELS)
    group = {"loader": "imagefolder", "root": str(tmp_path), "splits": {"test": "."}}
    with pytest.raises(InputError, match=f"dataset.white={white} is not a positive number"):
        load({**group, "white": white})


def test_white_reaches_every_file_of_a_data_set_and_no_loader_without_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    values = np.arange(600, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "a/0.png")
    group = {"loader": "imagefolder", "root": str(tmp_path), "splits": {"test": "."}, "size": 8, "resize": 8}
    dataset = load({**group, "white": 599})
    found = dataset.image(dataset.records("test")[0])
    assert np.abs(found[..., 0] - values / 599 * 255).max() <= 0.5
    assert image_settings(dataset, {**group, "white": 599})["white"] == 599
    assert "white" not in image_settings(load(group), {**group, "white": None})
    with pytest.raises(InputError, match=r"dataset\.white=599: shapes reads no image files"):
        load({"loader": "shapes", "white": 599, "seed": 0, "objects": 1, "splits": {"test": 2}, "resize": 73})


def test_a_root_that_is_not_utf_8_is_shown() -> None:
    with pytest.raises(InputError, match=r"caf\\xe9.*UTF-8"):
        load({"loader": "imagefolder", "root": "caf\udce9", "splits": {"test": "."}})


@pytest.mark.parametrize("label", ["cat", "1", 1.5, float("nan"), None, float("inf")])
def test_a_label_that_is_no_place_in_the_classes_is_named(label: object) -> None:
    with pytest.raises(InputError, match=r"own\.py:Own.*label of 'x' is .*place of its class"):
        own(records=lambda _: [Record("x", label)]).records("test")  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [np.int64(1), 1.0, torch.tensor(1), np.float32(1)])
def test_labels_of_other_kinds_of_whole_numbers_become_int(label: object) -> None:
    (record,) = own(records=lambda _: [Record("x", label)]).records("test")  # type: ignore[arg-type]
    assert type(record.label) is int
    assert record == Record("x", 1)
