"""Oxford-IIIT Pet: the official layout written here, the real part beside the repository, and torchvision's class."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from conftest import paint

from xconsensus.compat import torchvision
from xconsensus.datasets.oxford_pets import OxfordPets
from xconsensus.errors import InputError

REAL = Path(__file__).parents[2] / "shared/real/oxford-iiit-pet"
SPLITS = {"train": "trainval", "test": "test"}
GREY = np.full((20, 30, 3), 128, np.uint8)
TRIMAP = np.repeat(np.array([1, 3, 2], np.uint8), 10)[None].repeat(20, 0)
# breed, official number, species, number within the species
BREEDS = (("yorkshire_terrier", 37, 2, 25), ("Abyssinian", 1, 1, 1), ("Egyptian_Mau", 10, 1, 5))

real = pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs in ../shared/real")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "oxford-iiit-pet"
    for split, numbers in (("trainval", (1, 2)), ("test", (10,))):
        lines = [(f"{name}_{n}", *ids) for name, *ids in BREEDS for n in numbers]
        for name, *_ in lines:
            paint(folder / f"images/{name}.jpg", GREY)
            paint(folder / f"annotations/trimaps/{name}.png", TRIMAP)
        text = "".join(" ".join(map(str, line)) + "\n" for line in lines)
        (folder / f"annotations/{split}.txt").write_text(text)
    return folder


def pets(root: Path, **settings: Any) -> OxfordPets:
    return OxfordPets(root=str(root), splits=SPLITS, **settings)


def theirs(root: Path, split: str) -> list[tuple[str, int]]:
    """Breed and official number of every image, by torchvision."""
    found = torchvision.datasets.OxfordIIITPet(str(root.parent), split=split)
    return [(path.stem, label) for path, label in zip(found._images, found._labels, strict=True)]


def test_labels_have_no_gaps_and_follow_the_official_numbers(root: Path) -> None:
    dataset = pets(root)
    assert dataset.classes == ("Abyssinian", "Egyptian_Mau", "yorkshire_terrier")
    for split in SPLITS:
        for record in dataset.records(split):
            assert record.image_id.rpartition("_")[0] == dataset.classes[record.label]


@pytest.mark.parametrize("folder", ["written", pytest.param("real", marks=real)])
@pytest.mark.parametrize("split", SPLITS)
def test_the_list_is_torchvision_s(root: Path, folder: str, split: str) -> None:
    place = root if folder == "written" else REAL
    expected = theirs(place, SPLITS[split])
    numbers = sorted({number for other in SPLITS.values() for _, number in theirs(place, other)})
    records = pets(place).records(split)
    assert [(r.image_id, numbers[r.label]) for r in records] == sorted(expected)


@pytest.mark.parametrize("values", [[1], [3], [1, 3]])
def test_the_object_is_the_given_values_of_the_trimap(root: Path, values: list[int]) -> None:
    dataset = pets(root, mask_values=values)
    expected = sum((value == TRIMAP for value in values), start=np.zeros(TRIMAP.shape, bool))
    np.testing.assert_array_equal(dataset.mask(dataset.records("test")[0]), expected)


def test_a_breed_that_only_one_split_has_counts(root: Path) -> None:
    path = root / "annotations/test.txt"
    path.write_text("".join(line for line in path.open() if "Egyptian" not in line))
    dataset = pets(root)
    assert [r.label for r in dataset.records("test")] == [0, 2]
    assert {r.label for r in dataset.records("train")} == {0, 1, 2}


@real
def test_the_real_part_has_its_numbers_of_photographs_with_masks_that_fit() -> None:
    dataset = pets(REAL)
    assert dataset.classes == ("Abyssinian", "american_bulldog", "Bengal")
    assert [len(dataset.records(split)) for split in SPLITS] == [300, 240]
    ids = [record.image_id for split in SPLITS for record in dataset.records(split)]
    assert len(set(ids)) == len(ids)
    for record in dataset.records("test")[::40]:
        image, mask = dataset.image(record), dataset.mask(record)
        assert mask.shape == image.shape[:2]
        # the animals stand away from the corners and fill the middle
        height, width = mask.shape
        middle = mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
        assert middle.mean() > mask.mean()


@real
def test_with_the_outline_a_mask_covers_the_pet_and_its_neighbours() -> None:
    whole, inner = pets(REAL), pets(REAL, mask_values=[1])
    for record in whole.records("test")[::60]:
        assert not (inner.mask(record) & ~whole.mask(record)).any()
        assert whole.mask(record).sum() > inner.mask(record).sum()


@pytest.mark.parametrize("name", ["images", "annotations/trimaps", "annotations/trainval.txt", "annotations/test.txt"])
def test_what_is_missing_is_named_with_where_to_get_it(root: Path, tmp_path: Path, name: str) -> None:
    (root / name).rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"{name}: .*images\.tar\.gz and annotations\.tar\.gz.*vgg/data/pets"):
        pets(root)


def test_images_lines_breeds_and_splits_that_are_wrong_are_named(root: Path) -> None:
    (root / "images/Abyssinian_10.jpg").unlink()
    with pytest.raises(InputError, match=r"Abyssinian_10\.jpg.*test\.txt"):
        pets(root).records("test")
    with pytest.raises(InputError, match="'val'"):
        pets(root).records("val")
    lines = (root / "annotations/test.txt").read_text()
    for line, culprit in (
        ("Bengal_1 6 1", r"test\.txt:4"),
        ("Abyssinian_3 2 1 1", "Abyssinian"),
        ("Manx_1 1 1 1", "Manx"),
    ):
        (root / "annotations/test.txt").write_text(f"{lines}{line}\n")
        with pytest.raises(InputError, match=culprit):
            pets(root)


def test_masks_that_are_empty_or_of_another_size_are_named(root: Path) -> None:
    dataset = pets(root)
    record = dataset.records("test")[0]
    path = root / f"annotations/trimaps/{record.image_id}.png"
    paint(path, np.full((20, 30), 2, np.uint8))
    with pytest.raises(InputError, match=rf"{path.name}.*empty.*mask_values=\[1, 3\]"):
        dataset.mask(record)
    paint(path, TRIMAP.T)
    with pytest.raises(InputError, match=rf"{path.name}.*20x30.*30x20"):
        dataset.mask(record)


def test_nothing_is_downloaded_unless_asked_for(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(url: str, download_root: str, md5: str) -> None:
        assert md5
        asked.append((url.rpartition("/")[2], download_root))
        Path(download_root).parent.mkdir(exist_ok=True)
        if not Path(download_root).exists():
            root.rename(download_root)

    monkeypatch.setattr(torchvision.datasets.oxford_iiit_pet, "download_and_extract_archive", fetch)
    target = tmp_path / "new/oxford-iiit-pet"
    with pytest.raises(InputError, match=r"dataset\.download=true"):
        pets(target)
    assert not asked
    assert len(pets(target, download=True).records("test")) == len(BREEDS)
    assert asked == [(f"{name}.tar.gz", str(target)) for name in ("images", "annotations")]


def test_a_download_that_fails_says_what_to_fetch_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: str, **__: str) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torchvision.datasets.oxford_iiit_pet, "download_and_extract_archive", fetch)
    with pytest.raises(InputError, match=r"no route.*images\.tar\.gz.*vgg/data/pets"):
        pets(tmp_path / "oxford-iiit-pet", download=True)
    with pytest.raises(InputError, match=r"elsewhere.*oxford-iiit-pet"):
        pets(tmp_path / "elsewhere", download=True)
