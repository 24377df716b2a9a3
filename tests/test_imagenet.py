"""ImageNet in class folders, and flat with a devkit written here; labels against torchvision's reading of the devkit."""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import paint
from scipy.io import savemat

from xconsensus import progress
from xconsensus.compat import torchvision
from xconsensus.datasets.imagefolder import ImageFolder, imagenet_wnids
from xconsensus.datasets.imagenet import ImageNet
from xconsensus.errors import InputError

REAL = Path(__file__).parents[2] / "shared/real/imagenet-sample"
GREY = np.full((8, 8, 3), 128, np.uint8)
HERE = {"test": "."}
TRUTH = [1, 1000, 37, 500, 37]


def write_devkit(folder: Path) -> Path:
    """A devkit whose ids are a shuffle of the sorted WordNet ids, with a few synsets that are no classes."""
    wnids = [*np.random.default_rng(0).permutation(imagenet_wnids()).tolist(), "n00001740", "n00002684"]
    synsets = np.zeros(
        len(wnids), dtype=[(n, object) for n in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    )
    for index, wnid in enumerate(wnids):
        synsets[index] = (index + 1, wnid, f"word, other {wnid}", "gloss", 0 if index < 1000 else 2)
    (folder / "data").mkdir(parents=True)
    savemat(folder / "data/meta.mat", {"synsets": synsets})
    (folder / "data/ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in TRUTH))
    return folder


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("devkit") / "ILSVRC2012_devkit_t12")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for number in range(1, len(TRUTH) + 1):
        paint(tmp_path / f"val/ILSVRC2012_val_{number:08d}.JPEG", GREY)
    return tmp_path / "val"


def test_flat_photographs_have_the_labels_that_torchvision_reads(
    flat: Path, devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(devkit, arcname=devkit.name)
    monkeypatch.setattr(torchvision.datasets.imagenet, "_verify_archive", lambda *_: None)
    torchvision.datasets.imagenet.parse_devkit_archive(str(tmp_path))
    _, wnids = torchvision.datasets.imagenet.load_meta_file(str(tmp_path))
    dataset = ImageNet(root=str(flat), splits=HERE, devkit=str(devkit))
    records = dataset.records("test")
    assert [dataset.classes[record.label] for record in records] == wnids
    assert [record.image_id for record in records] == sorted(path.name for path in flat.iterdir())
    np.testing.assert_array_equal(dataset.image(records[0]).shape, GREY.shape)
    assert not dataset.has_masks


@pytest.mark.parametrize("place", ["val/ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12"])
def test_the_devkit_lies_inside_or_beside_the_photographs(flat: Path, devkit: Path, tmp_path: Path, place: str) -> None:
    expected = ImageNet(root=str(flat), splits=HERE, devkit=str(devkit)).records("test")
    with pytest.raises(InputError, match=r"ILSVRC2012_devkit_t12.*image-net\.org.*dataset\.devkit"):
        ImageNet(root=str(flat), splits=HERE).records("test")
    (tmp_path / place).symlink_to(devkit)
    assert ImageNet(root=str(flat), splits=HERE).records("test") == expected
    assert ImageNet(root=str(flat), splits=HERE, devkit=str(devkit / "data")).records("test") == expected


def test_a_part_of_the_photographs_keeps_their_labels(flat: Path, devkit: Path) -> None:
    dataset = ImageNet(root=str(flat), splits=HERE, devkit=str(devkit))
    before = dataset.records("test")
    for number in (1, 4):
        (flat / f"ILSVRC2012_val_{number:08d}.JPEG").unlink()
    assert dataset.records("test") == [before[index] for index in (1, 2, 4)]


@pytest.mark.parametrize("way", ["moved", "copied"])
def test_photographs_half_sorted_into_class_folders_are_all_used_once(flat: Path, devkit: Path, way: str) -> None:
    dataset = ImageNet(root=str(flat), splits=HERE, devkit=str(devkit))
    before = dataset.records("test")
    for record in before[:3]:
        place = flat / dataset.classes[record.label] / Path(record.path).name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(Path(record.path).read_bytes())
        if way == "moved":
            Path(record.path).unlink()
    found = dataset.records("test")
    assert [record.image_id for record in found] == sorted(record.image_id for record in found)
    assert {Path(r.path).name: r.label for r in found} == {r.image_id: r.label for r in before}
    assert len(found) == len(before)
    assert (found == before) == (way == "copied")  # the results of the loose ones stay theirs


@pytest.mark.usefixtures("flat")
def test_class_folders_are_read_as_class_folders(devkit: Path, tmp_path: Path) -> None:
    for wnid in ("n02099601", "n01440764"):
        paint(tmp_path / f"train/{wnid}/{wnid}_1.JPEG", GREY)
    splits = {"train": "train", "test": "val"}
    dataset = ImageNet(root=str(tmp_path), splits=splits, devkit=str(devkit))
    plain = ImageFolder(root=str(tmp_path), splits={"train": "train"}, classes="imagenet")
    assert dataset.records("train") == plain.records("train")
    assert {record.image_id.split("/")[0] for record in dataset.records("test")} == {"val"}
    with pytest.raises(InputError, match="'explain'"):
        dataset.records("explain")


def test_masks_go_by_the_path_of_the_photograph(flat: Path, devkit: Path, tmp_path: Path) -> None:
    inside = np.zeros((8, 8), np.uint8)
    inside[2:4] = 255
    paint(tmp_path / "masks/ILSVRC2012_val_00000002.png", inside)
    dataset = ImageNet(root=str(flat), splits=HERE, devkit=str(devkit), masks=str(tmp_path / "masks"))
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[1]), inside > 0)


def test_a_missing_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*ILSVRC2012_img_val\.tar from image-net\.org"):
        ImageNet(root=str(tmp_path / "nowhere"), splits=HERE)


def test_a_devkit_that_does_not_fit_is_named(flat: Path, tmp_path: Path) -> None:
    devkit = write_devkit(tmp_path / "own")
    truth, meta = devkit / "data/ILSVRC2012_validation_ground_truth.txt", devkit / "data/meta.mat"
    dataset = ImageNet(root=str(flat), splits=HERE, devkit=str(devkit))
    for text, culprit in (
        ("1\n2\n", r"ground_truth\.txt: has 2 lines.*val_00000003"),
        ("1\n2\n3\n4\nfive\n", r"ground_truth\.txt:5"),
        ("1\n2\n3\n4\n1002\n", r"ground_truth\.txt:5: 1002"),
    ):
        truth.write_text(text)
        with pytest.raises(InputError, match=culprit):
            dataset.records("test")
    meta.write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"meta\.mat"):
        dataset.records("test")
    meta.unlink()
    with pytest.raises(InputError, match=r"meta\.mat.*devkit_t12\.tar\.gz"):
        dataset.records("test")


@pytest.mark.parametrize("devkit", [None, "own"])
def test_a_devkit_beside_the_photographs_is_not_said_to_be_unread(
    flat: Path, devkit: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_said", set())
    monkeypatch.setattr(progress.log, "propagate", True)  # off after a command that ran in this process
    folder = write_devkit(flat / (devkit or "ILSVRC2012_devkit_t12"))
    with caplog.at_level("INFO", "xconsensus"):
        records = ImageNet(root=str(flat), splits=HERE, devkit=devkit and str(folder)).records("test")
    assert len(records) == len(TRUTH)
    assert caplog.text == ""


@pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs in ../shared/real")
def test_labels_of_the_real_sample_are_those_of_its_table() -> None:
    dataset = ImageNet(root=str(REAL), splits=HERE)
    with (REAL / "classes.csv").open() as file:
        index = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    records = dataset.records("test")
    assert len(records) == 500
    assert [record.label for record in records] == [index[record.image_id.split("/")[0]] for record in records]
    assert list(dataset.classes) == list(index)


@pytest.mark.parametrize("place", ["", "../", "../../../../"])
@pytest.mark.parametrize("suffix", ["JPEG", "jpeg", "png"])
def test_kaggle_s_table_labels_its_photographs(tmp_path: Path, place: str, suffix: str) -> None:
    folder = tmp_path / "ILSVRC/Data/CLS-LOC/val"
    for number in (1, 2):
        paint(folder / f"ILSVRC2012_val_{number:08d}.{suffix}", GREY)
    wnids = imagenet_wnids()
    lines = [f"ILSVRC2012_val_{number:08d},{wnids[label]} 1 2 3 4 \r\n" for number, label in ((2, 7), (1, 999), (3, 0))]
    (folder / place / "LOC_val_solution.csv").write_text("\ufeffImageId,PredictionString\r\n" + "".join(lines), "utf-8")
    assert [record.label for record in ImageNet(root=str(folder), splits=HERE).records("test")] == [999, 7]


@pytest.mark.parametrize("name", ["ILSVRC2012_val_{}_{}.JPEG", "ilsvrc2012_val_{}_{}.jpeg"])
def test_names_of_hugging_face_hold_the_label(tmp_path: Path, name: str) -> None:
    wnids = imagenet_wnids()
    for number, label in ((1, 999), (2, 7)):
        paint(tmp_path / name.format(f"{number:08d}", wnids[label]), GREY)
    assert [record.label for record in ImageNet(root=str(tmp_path), splits=HERE).records("test")] == [999, 7]
    paint(tmp_path / name.format("00000003", "n00000000"), GREY)
    with pytest.raises(InputError, match="00000003_n00000000.* n00000000 is none"):
        ImageNet(root=str(tmp_path), splits=HERE).records("test")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "ImageId,PredictionString\nILSVRC2012_val_00000001,\n"])
def test_a_table_that_is_not_kaggle_s_is_named(flat: Path, text: str) -> None:
    (flat / "LOC_val_solution.csv").write_text(text)
    with pytest.raises(InputError, match="LOC_val_solution.csv: "):
        ImageNet(root=str(flat), splits=HERE).records("test")
