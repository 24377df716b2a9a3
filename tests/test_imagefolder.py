"""Class folders, splits, labels and masks."""

import os
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np
import pytest
from conftest import Project, paint
from PIL import Image, features

from xconsensus import progress
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.imagefolder import ImageFolder, imagenet_wnids
from xconsensus.errors import InputError

GREY = np.full((20, 30, 3), 128, np.uint8)
HERE = {"test": "."}
Form = Literal["NFC", "NFD"]


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_said", set())
    monkeypatch.setattr(progress.log, "propagate", True)  # off after a command that ran in this process


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


def test_a_split_s_folder_may_be_given_as_a_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    here = Path(root.name)
    for given in (".", root.name, str(root)):
        assert folder(here, {"test": given}).records("test") == folder(here).records("test")
    with pytest.raises(InputError, match=r"dataset\.splits: .* is not below dataset\.root="):
        folder(here / "cat", {"test": str(root / "dog")})
    with pytest.raises(InputError, match=rf"{root.name}/dogs: no such folder"):
        folder(here, {"test": "dogs"})


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


# --- folders as they come ---


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged; what was said once before may be said again."""
    progress._said.clear()
    monkeypatch.setattr("xconsensus.progress.log.propagate", True)
    caplog.set_level("INFO", "xconsensus")
    return caplog


def ids(dataset: ImageFolder) -> list[str]:
    return [record.image_id for record in dataset.records("test")]


def test_photographs_in_folders_below_are_of_the_class_above(root: Path, said: pytest.LogCaptureFixture) -> None:
    paint(root / "cat/new/day/1.png", GREY)
    paint(root / "dog/10.old/2.png", GREY)
    dataset = folder(root)
    assert ids(dataset) == [
        "cat/10.png",
        "cat/9.png",
        "cat/new/day/1.png",
        "dog/10.old/2.png",
        "dog/10.png",
        "dog/9.png",
    ]
    assert [record.label for record in dataset.records("test")] == [0, 0, 0, 1, 1, 1]
    assert said.text.count("cat/new, dog/10.old") == 1


def test_what_is_not_read_is_counted_in_one_line(root: Path, said: pytest.LogCaptureFixture) -> None:
    before = ids(folder(root))
    for name in ("a.svg", "b.SVG", "c.heic", "dump", "notes.txt"):
        (root / "cat" / name).write_bytes(b"x")
    (root / "dog/gone.png").symlink_to("nowhere.png")
    (root / "dog/self.png").symlink_to("self.png")
    (root / "fox").symlink_to("nowhere")  # a class
    paint(root / "dog/masks/9.png", GREY)
    paint(root / "loose.png", GREY)
    (root / "labels.csv").write_text("x")
    for _ in range(2):
        assert ids(folder(root)) == before
    (line,) = [record.message for record in said.records]
    for count in (
        "2 .svg",
        "1 .heic",
        "1 .txt",
        "1 without a suffix",
        "3 broken link",
        "1 in no class folder",
        "1 in folders masks",
    ):
        assert count in line


def test_what_systems_put_there_is_passed_over_in_silence(root: Path, said: pytest.LogCaptureFixture) -> None:
    before = ids(folder(root))
    for name in ("cat/._9.png", "__MACOSX/cat/._9.png", "@eaDir/0.png", "#recycle/9.png", "cat/@eaDir/9.png/thumb.png", ".ipynb_checkpoints/9.png",
                 "cat/.ipynb_checkpoints/9.png", "cat/Thumbs.db", "cat/desktop.ini", ".DS_Store"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\26\7")
    dataset = folder(root)
    assert ids(dataset) == before
    assert dataset.classes == ("cat", "dog")
    assert not said.records


@pytest.mark.parametrize("suffix", ["jfif", "JFIF", "pgm", "avif"])
def test_other_suffixes_of_what_is_read_are_read(root: Path, suffix: str) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    image = Image.fromarray(GREY if suffix != "pgm" else GREY[..., 0])
    image.save(root / f"cat/x.{suffix}", format={"avif": "AVIF", "pgm": "PPM"}.get(suffix, "JPEG"))
    dataset = folder(root)
    (record,) = [record for record in dataset.records("test") if "x." in record.image_id]
    assert np.abs(dataset.image(record).astype(int) - GREY).max() <= 2


@pytest.mark.parametrize("name", [b"cat/caf\xe9.png", b"cat/\xe9/0.png", b"\xe9t\xe9/0.png"])
def test_names_that_are_not_utf_8_are_shown(root: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(os.fsencode(root / "cat/9.png"), path)
    with pytest.raises(InputError, match=r"\\xe9.*not UTF-8.*rename") as caught:
        folder(root).records("test")
    str(caught.value).encode()


def test_links_in_a_circle_end(root: Path) -> None:
    before = folder(root).records("test")
    (root / "cat/again").symlink_to(root)
    (root / "cat/up").symlink_to(root.parent)
    (root / "cat/self").symlink_to(root / "cat")
    assert folder(root).records("test") == before  # no dog in the class cat


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("train", "val"), r"dataset\.splits\.test=val"),
        (("Training", "Test"), r"dataset\.splits\.test=Test"),
        (("images",), r"dataset\.root=\S*up/images"),
        (("whatever",), r"dataset\.root=\S*up/whatever"),
    ],
)
@pytest.mark.parametrize("classes", [None, ["cat", "dog"]])
def test_a_root_one_level_too_high_gets_a_hint(
    root: Path, tmp_path: Path, names: tuple[str, ...], hint: str, classes: list[str] | None
) -> None:
    for name in names:
        shutil.copytree(root, tmp_path / "up" / name)
    with pytest.raises(InputError, match=rf"class folders.*{hint}"):
        folder(tmp_path / "up", classes=classes).records("test")


@pytest.mark.parametrize("classes", [None, ["cat", "dog"]])
def test_a_folder_of_masks_among_the_classes_is_named_as_one(root: Path, classes: list[str] | None) -> None:
    shutil.copytree(root, root.parent / "copy")
    shutil.move(root.parent / "copy", root / "masks")
    with pytest.raises(InputError, match=rf"masks: a folder of masks.* dataset\.masks={root / 'masks'}"):
        folder(root, classes=classes).records("test")
    dataset = folder(root, classes=classes, masks=str(root / "masks"))  # what the line says
    first = dataset.records("test")[0]
    assert dataset.mask_file(first) == root / "masks" / first.image_id


def test_class_folders_beside_their_own_copies_get_a_hint(root: Path) -> None:
    shutil.copytree(root, root.parent / "copy")
    shutil.move(root.parent / "copy", root / "holdout")
    with pytest.raises(InputError, match=r"holdout hold class folders.*dataset\.root=\S*holdout"):
        folder(root).records("test")


def test_a_root_one_level_too_low_gets_a_hint(root: Path, said: pytest.LogCaptureFixture) -> None:
    assert {record.label for record in folder(root / "cat").records("test")} == {-1}
    assert re.search(rf"its 2 photographs are unknown.*folder of a class, give dataset\.root={root}$", said.text, re.M)


def test_classes_may_hold_folders_only(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name / "2024").mkdir()
        for path in list((root / name).glob("*.png")):
            path.rename(root / name / "2024" / path.name)
    assert ids(folder(root)) == ["cat/2024/10.png", "cat/2024/9.png", "dog/2024/10.png", "dog/2024/9.png"]


def test_own_output_masks_and_other_splits_are_no_classes(root: Path) -> None:
    before = ids(folder(root))
    for made in ("predictions/test/one.safetensors", "status/finetune/one.json", "figures/mine/fig01.png"):
        for output in ("outputs/set", "runs/second/set"):
            paint(root / output / "figures/mine/fig02.png", GREY)
            (root / output / made).parent.mkdir(parents=True, exist_ok=True)
            (root / output / made).write_bytes(b"x")
    paint(root / "cat_masks/cat/9.png", GREY)
    shutil.copytree(root / "cat", root / "more/cat")
    dataset = folder(root, {"test": ".", "train": "more"}, masks=str(root / "cat_masks"))
    assert ids(dataset) == before
    assert dataset.classes == ("cat", "dog")
    assert [record.image_id for record in dataset.records("train")] == ["more/cat/10.png", "more/cat/9.png"]


# --- numbers as names ---


def test_folders_that_are_numbers_are_counted_as_numbers(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    for number in range(12):
        paint(tmp_path / f"{number}/0.png", GREY)
    dataset = folder(tmp_path)
    assert dataset.classes == tuple(map(str, range(12)))
    assert {record.label for record in dataset.records("test") if record.image_id.startswith("10/")} == {10}
    assert dataset.classes_before == tuple(sorted(map(str, range(12))))
    assert "dataset.classes" in said.text
    given = folder(tmp_path, classes=sorted(map(str, range(12))))
    assert given.classes == given.classes_before == dataset.classes_before


@pytest.mark.parametrize("names", [["c1", "c2", "c10"], ["1", "2", "10", "x"]])
def test_other_names_stay_sorted_as_words_and_it_is_said(
    tmp_path: Path, names: list[str], said: pytest.LogCaptureFixture
) -> None:
    for name in names:
        paint(tmp_path / name / "0.png", GREY)
    assert folder(tmp_path).classes == folder(tmp_path).classes_before == tuple(sorted(names))
    assert said.text.count("dataset.classes") == 1


@pytest.mark.parametrize("names", [["0", "1", "2"], ["00", "01", "10"], ["cat", "dog"]])
def test_nothing_is_said_where_both_orders_agree(
    tmp_path: Path, names: list[str], said: pytest.LogCaptureFixture
) -> None:
    for name in names:
        paint(tmp_path / name / "0.png", GREY)
    assert folder(tmp_path).classes == tuple(names)
    assert not said.records


OBJECT = np.zeros((20, 30), np.uint8)
OBJECT[4:12, 5:15] = 255


@pytest.mark.parametrize("name", ["9.PNG", "9_mask.png", "9-Mask.tif", "9_segmentation.png", "9.png.png", "9.gif"])
def test_a_mask_is_found_by_other_names(root: Path, tmp_path: Path, name: str) -> None:
    paint(tmp_path / "masks/cat" / name, OBJECT)
    paint(tmp_path / "masks/cat/99_mask.png", 255 - OBJECT)
    dataset = folder(root, masks=str(tmp_path / "masks"))
    record = dataset.records("test")[1]
    assert dataset.mask_file(record).name == name
    np.testing.assert_array_equal(dataset.mask(record), OBJECT > 0)


@pytest.mark.parametrize(("photographs", "masks"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_of_one_or_two_characters(tmp_path: Path, photographs: Form, masks: Form) -> None:
    paint(tmp_path / "images" / normalize(photographs, "café/thé.png"), GREY)
    paint(tmp_path / "masks" / normalize(masks, "café/thé.png"), OBJECT)
    dataset = folder(tmp_path / "images", masks=str(tmp_path / "masks"))
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[0]), OBJECT > 0)


def test_a_missing_mask_shows_what_lies_there(root: Path, tmp_path: Path) -> None:
    for name in ("9_a.png", "9_mask.png", "9_mask_1.png"):
        paint(tmp_path / "masks/cat" / name, OBJECT)
    dataset = folder(root, masks=str(tmp_path / "masks"))
    first, second, dog, _ = dataset.records("test")
    with pytest.raises(InputError, match=r"no mask for image .*cat/10\.png.*masks/cat holds 9_a\.png, 9_mask\.png"):
        dataset.mask_file(first)
    with pytest.raises(InputError, match=r"several masks for image .*cat/9\.png: 9_mask\.png, 9_mask_1\.png"):
        dataset.mask_file(second)
    with pytest.raises(InputError, match=r"no mask for image .*dog/10\.png.*masks holds cat"):
        dataset.mask_file(dog)


def test_masks_beside_photographs_are_masks_and_no_photographs(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = folder(root).records("test")
    for record in before[:-1]:
        path = Path(record.path)
        paint(path.with_name(f"{path.stem}_mask.png"), OBJECT)
    paint(root / "cat/own_mask.png", GREY)  # of no other, so a photograph
    with caplog.at_level("INFO", "xconsensus"):
        dataset = folder(root, masks=str(root))
        records = dataset.records("test")
    assert {r.image_id for r in records} - {r.image_id for r in before} == {"cat/own_mask.png"}
    assert folder(root).records("test") == records
    for record in before[:-1]:
        np.testing.assert_array_equal(dataset.mask(record), OBJECT > 0)
    for alone in (before[-1], next(r for r in records if "own" in r.image_id)):
        with pytest.raises(InputError, match="no mask for image .*no photograph is its own mask"):
            dataset.mask(alone)
    assert "2 of 5 images, as 10_mask.png beside 10.png, are taken for masks" in caplog.text


def test_masks_with_a_word_before_the_name_are_masks(root: Path) -> None:
    before = folder(root).records("test")
    for record in before:
        path = Path(record.path)
        paint(path.with_name(f"mask_{path.name}"), OBJECT)
    paint(root / "cat/mask_of_zorro.png", GREY)  # of no other, so a photograph
    dataset = folder(root, masks=str(root))
    assert {r.image_id for r in dataset.records("test")} == {r.image_id for r in before} | {"cat/mask_of_zorro.png"}
    for record in before:
        np.testing.assert_array_equal(dataset.mask(record), OBJECT > 0)


def test_a_png_beside_a_jpeg_is_its_mask_where_masks_lie_there(tmp_path: Path) -> None:
    paint(tmp_path / "a/0.jpg", GREY)
    paint(tmp_path / "a/0.png", OBJECT)
    dataset = folder(tmp_path, masks=str(tmp_path))
    (record,) = dataset.records("test")
    assert record.image_id == "a/0.jpg"
    np.testing.assert_array_equal(dataset.mask(record), OBJECT > 0)
    assert len(folder(tmp_path).records("test")) == 2


def test_a_mask_that_covers_everything_is_refused(root: Path, tmp_path: Path) -> None:
    values = np.full((20, 30), 235, np.uint8)
    values[OBJECT == 0] = 16
    paint(tmp_path / "masks/cat/9.png", values)
    dataset = folder(root, masks=str(tmp_path / "masks"))
    record = dataset.records("test")[1]
    with pytest.raises(InputError, match=r"masks/cat/9\.png.*whole image.*mask_threshold=0"):
        dataset.mask(record)
    with pytest.raises(InputError, match=r"masks/cat/9\.png.*whole image"):
        folder(root, masks=str(tmp_path / "masks"), mask_void=16).mask(record)
    dataset = folder(root, masks=str(tmp_path / "masks"), mask_threshold=127)
    np.testing.assert_array_equal(dataset.mask(record), OBJECT > 0)


def test_void_is_neither_object_nor_background(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[3:13, 4:16], values[OBJECT > 0] = 255, 1
    paint(tmp_path / "masks/cat/9.png", values)
    plain, void = (folder(root, masks=str(tmp_path / "masks"), mask_void=each) for each in (None, 255))
    record = plain.records("test")[1]
    with caplog.at_level("INFO", "xconsensus"):
        np.testing.assert_array_equal(void.mask(record), OBJECT > 0)
        assert not caplog.text
        np.testing.assert_array_equal(plain.mask(record), values > 0)
    assert re.search(r"cat/9\.png.*near 0 \(1\) and near 255.*mask_threshold=127.*mask_void=255", caplog.text)
    np.testing.assert_array_equal(void.void(record), values == 255)
    assert plain.void(record) is None


@pytest.mark.parametrize(("levels", "said"), [((0, 1, 255), True), ((0, 100, 200), False), ((0, 1, 2), False)])
def test_noise_is_told_from_levels(
    root: Path, tmp_path: Path, levels: tuple[int, ...], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[:5], values[5:9] = levels[1], levels[2]
    paint(tmp_path / "masks/cat/9.png", values)
    dataset = folder(root, masks=str(tmp_path / "masks"))
    with caplog.at_level("INFO", "xconsensus"):
        dataset.mask(dataset.records("test")[1])
    assert ("near 0" in caplog.text) == said


def test_an_inverted_mask_is_warned_of_and_turned_on_demand(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    hollow = Image.new("RGBA", (30, 20), "black")
    hollow.putalpha(Image.fromarray(255 - OBJECT))
    for name in ("0", "1", "2"):
        paint(tmp_path / f"images/a/{name}.png", np.zeros((20, 30, 3), np.uint8))
        paint(tmp_path / f"masks/a/{name}.png", OBJECT)
    hollow.save(tmp_path / "masks/a/2.png")
    paint(tmp_path / "masks/a/1.png", 255 - OBJECT)
    given = partial(folder, tmp_path / "images", masks=str(tmp_path / "masks"))
    for invert in (None, False, True):
        dataset = given(mask_invert=invert)
        records = dataset.records("test")
        images = CroppedImages(dataset, 20, 20)
        for record in records:
            images.mask(record)
            right = (OBJECT > 0) == ((record.image_id == "a/0.png") != bool(invert))
            np.testing.assert_array_equal(dataset.mask(record), right)
        images.say_inverted(records)
        if invert is None:
            assert re.search(r"2 of 3 masks.*a/1\.png \(87%.*a/2\.png \(87%.*dataset\.mask_invert=true", said.text)
            said.clear()
        assert not said.records
    paint(tmp_path / "masks/a/0.png", np.full((20, 30), 255, np.uint8))
    with pytest.raises(InputError, match=r"a/0\.png.*empty, every pixel.*mask_invert=true"):
        given(mask_invert=True).mask(records[0])


@pytest.mark.parametrize(
    ("photograph", "mask", "other"),
    [
        ("image", "mask", None),
        ("x", "gt", None),
        ("rgb", "mask", "depth"),
        ("7", "7mask", "8"),
        ("img", "mask_0", None),
    ],
)
def test_a_file_called_mask_is_that_of_the_image_beside_it(
    tmp_path: Path, photograph: str, mask: str, other: str | None, said: pytest.LogCaptureFixture
) -> None:
    for below in ("a/0", "a/1", "b/0"):
        for name in filter(None, (photograph, other)):
            paint(tmp_path / below / f"{name}.png", np.zeros((20, 30, 3), np.uint8))
        paint(tmp_path / below / f"{mask}.png", OBJECT)
    for masks in (None, str(tmp_path)):
        dataset = folder(tmp_path, masks=masks)
        records = dataset.records("test")
        assert {Path(record.path).stem for record in records} == {photograph, *filter(None, [other])}
    assert f"as {mask}.png beside {photograph}.png, are taken for masks" in said.text
    for record in records:
        if Path(record.path).stem == photograph:
            np.testing.assert_array_equal(dataset.mask(record), OBJECT > 0)


def test_a_file_called_mask_in_another_folder_is_that_of_the_only_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        paint(tmp_path / f"images/{name}/0/image.png", np.zeros((20, 30, 3), np.uint8))
        paint(tmp_path / f"masks/{name}/0/mask.png", OBJECT)
    dataset = folder(tmp_path / "images", masks=str(tmp_path / "masks"))
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[1]), OBJECT > 0)
    paint(tmp_path / "images/a/0/second.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(InputError, match="no mask for image"):
        dataset.mask(folder(tmp_path / "images").records("test")[0])


def test_a_file_called_mask_beside_several_images_is_named(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    for name in ("zorro", "batman", "mask"):
        paint(tmp_path / f"a/{name}.png", GREY)
    assert len(folder(tmp_path).records("test")) == 3
    assert re.search(r"1 images are called as masks.*a/mask\.png", said.text)


def test_files_that_are_not_read_beside_class_folders_are_counted(root: Path, said: pytest.LogCaptureFixture) -> None:
    for name in ("x.heic", "y.heic", "z.jfif", "notes"):
        (root / name).write_bytes(b"")
    assert len(folder(root).records("test")) == 4
    for words in ("2 .heic", "1 in no class folder", "1 without a suffix"):
        assert words in said.text


def test_a_mask_that_may_be_of_two_images_is_refused(root: Path, tmp_path: Path) -> None:
    paint(root / "cat/9.jpg", GREY)
    paint(tmp_path / "masks/cat/9.png", OBJECT)
    jpg, png = folder(root, masks=str(tmp_path / "masks")).records("test")[1:3]
    dataset = folder(root, masks=str(tmp_path / "masks"))
    np.testing.assert_array_equal(dataset.mask(png), OBJECT > 0)
    with pytest.raises(InputError, match=r"cat/9\.png: of which image is it the mask, 9\.jpg or 9\.png\?.*9\.jpg\.png"):
        dataset.mask_file(jpg)
    paint(tmp_path / "masks/cat/9.jpg.png", OBJECT)
    assert folder(root, masks=str(tmp_path / "masks")).mask_file(jpg).name == "9.jpg.png"


def test_a_class_that_is_named_twice_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.classes: names cat twice"):
        folder(root, classes=["cat", "dog", "cat"])


def test_a_folder_whose_masks_are_all_useless_stops_before_anything_is_spent(photographs: Project) -> None:
    """The photographs themselves, say: each covers everything. One that can be used is enough to go on."""
    masks = sorted((photographs.folder / "masks").rglob("*.png"))
    whole = [path.read_bytes() for path in masks]
    for path in masks:
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    outcome = photographs.run("finetune")
    assert outcome.code == 2
    assert "masks/" in outcome.errors[0]
    assert "mask is the whole image" in outcome.errors[0]
    assert not [*photographs.outputs.rglob("predictions")]
    masks[0].write_bytes(whole[0])
    photographs.done("finetune")
