from collections import Counter

import numpy as np
import pytest

from xconsensus.datasets import Record
from xconsensus.datasets.selection import ONLY_CORRECT, SAMPLES, choose, right_images
from xconsensus.errors import InputError

# 4 classes of 9, 3, 1 and 7 images, as a data set lists them
RECORDS = [Record(f"{label}/{i}", label) for label, count in enumerate([9, 3, 1, 7]) for i in range(count)]


def counts_of(records: list[Record]) -> list[int]:
    found = Counter(record.label for record in records)
    return [found[label] for label in range(4)]


def fair_share(images: int, per_class: int | None) -> list[int]:
    """How many each class gives, at least, when images are dealt out in rounds."""
    given = [0] * 4
    while sum(given) < images:
        can = [c for c in range(4) if given[c] < min(counts_of(RECORDS)[c], per_class or 99)]
        if not can:
            break
        for label in can:
            given[label] += 1
            if sum(given) == images:
                break
    return given


def test_right_images_are_those_of_all_or_any_members_or_every_one() -> None:
    correct = np.random.default_rng(0).random((4, 60)) < 0.6
    columns = correct.T.tolist()
    assert right_images(correct, "all").tolist() == [sum(column) == 4 for column in columns]
    assert right_images(correct, "any").tolist() == [sum(column) > 0 for column in columns]
    assert right_images(correct, "none").tolist() == [True] * 60
    kept = [int(right_images(correct, word).sum()) for word in ONLY_CORRECT]
    assert 0 < kept[0] < kept[1] < kept[2] == 60


@pytest.mark.parametrize("per_class", [None, 1, 2, 5])
@pytest.mark.parametrize("images", [1, 3, 4, 7, 12, 20, 50])
@pytest.mark.parametrize("sample", SAMPLES)
def test_images_are_spread_over_the_classes(sample: str, images: int, per_class: int | None) -> None:
    chosen = choose(RECORDS, sample, images, per_class, seed=1)
    expected = fair_share(images, per_class)
    if images in (4, 7, 50):  # whole rounds
        assert counts_of(chosen) == expected
    else:  # which classes give one more in the last round is drawn
        assert sorted(counts_of(chosen)) == pytest.approx(sorted(expected), abs=1)
        assert sum(counts_of(chosen)) == sum(expected)
        assert all(abs(a - b) <= 1 for a, b in zip(counts_of(chosen), expected, strict=True))


@pytest.mark.parametrize("sample", SAMPLES)
def test_chosen_images_keep_the_order_of_the_data_set_without_repeats(sample: str) -> None:
    chosen = choose(RECORDS, sample, 11, None, seed=2)
    places = [RECORDS.index(record) for record in chosen]
    assert places == sorted(set(places))
    assert len(places) == 11


@pytest.mark.parametrize("classes", [5, 101, 102, 196, 200, 1000])
@pytest.mark.parametrize("images", [1, 2, 3, 50])
@pytest.mark.parametrize("sample", SAMPLES)
def test_fewer_images_than_classes_are_of_as_many_classes_all_along_the_labels(
    sample: str, images: int, classes: int
) -> None:
    images = min(images, classes)
    records = [Record(f"{label}/{i}", label) for label in range(classes) for i in range(3)]
    labels = [record.label for record in choose(records, sample, images, None, seed=3)]
    assert len(labels) == len({*labels}) == images
    if sample == "first":  # one in each of as many parts of equal length, each in the middle of its part
        parts = [(number + 0.5) * classes / images for number in range(images)]
        assert np.abs(np.array(labels) + 0.5 - parts).max() <= 0.5
        assert labels == [r.label for r in choose(records, sample, images, None, seed=4)]
        assert {r.image_id for r in choose(records, sample, images, None, 0)} == {f"{label}/0" for label in labels}
    if sample == "random" and (images, classes) == (50, 1000):  # not one stretch of labels: quarters share them
        assert min(np.histogram(labels, 4, (0, classes))[0]) > 4


@pytest.mark.parametrize(("images", "rounds"), [(1500, 1), (1001, 1), (2999, 2)])
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_later_round_is_spread_over_the_classes_too(sample: str, images: int, rounds: int) -> None:
    records = [Record(f"{label}/{i}", label) for label in range(1000) for i in range(3)]
    given = Counter(record.label for record in choose(records, sample, images, None, seed=3))
    assert {*given.values()} == {rounds, rounds + 1}
    more = sorted(label for label, count in given.items() if count == rounds + 1)
    assert len(more) == images - 1000 * rounds
    if sample == "first":
        parts = [(number + 0.5) * 1000 / len(more) for number in range(len(more))]
        assert np.abs(np.array(more) + 0.5 - parts).max() <= 0.5
    elif images == 1500:
        assert min(np.histogram(more, 4, (0, 1000))[0]) > 80


def test_first_takes_the_first_of_each_class() -> None:
    chosen = choose(RECORDS, "first", 8, None, seed=0)
    assert [record.image_id for record in chosen] == ["0/0", "0/1", "1/0", "1/1", "1/2", "2/0", "3/0", "3/1"]
    assert choose(RECORDS, "first", 8, None, seed=1) == chosen


def test_a_round_goes_through_the_classes_by_number_however_the_data_set_is_sorted() -> None:
    backwards = RECORDS[::-1]
    chosen = choose(backwards, "first", 6, None, seed=0)
    assert [record.image_id for record in chosen] == ["3/6", "3/5", "2/0", "1/2", "0/8", "0/7"]


def test_random_depends_on_the_seed_and_reaches_every_image() -> None:
    draws = [choose(RECORDS, "random", 8, None, seed) for seed in range(60)]
    assert choose(RECORDS, "random", 8, None, 0) == draws[0]
    assert draws[0] != draws[1]
    assert {record for draw in draws for record in draw} == set(RECORDS)


def test_random_classes_share_the_last_place_fairly() -> None:
    given = Counter(choose(RECORDS, "random", 1, None, seed)[0].label for seed in range(200))
    assert set(given) == {0, 1, 2, 3}


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_limits_choose_everything(sample: str) -> None:
    assert choose(RECORDS, sample, None, None, 0) == RECORDS
    assert counts_of(choose(RECORDS, sample, None, 2, 0)) == [2, 2, 1, 2]
    assert choose(RECORDS, sample, 0, None, 0) == []
    assert choose([], sample, 5, None, 0) == []


def test_unknown_words_are_named() -> None:
    with pytest.raises(InputError, match=r"explain\.only_correct=most is none of all, any, none"):
        right_images(np.ones((2, 3), dtype=bool), "most")
    with pytest.raises(InputError, match=r"explain\.sample=last is none of first, random"):
        choose(RECORDS, "last", 5, None, 0)
