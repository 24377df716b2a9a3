"""COCO's segmentations: polygons against a point-in-polygon test, run lengths against masks packed here."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from xconsensus.datasets.coco_masks import rasterise, unpack


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    column_by_column = mask.T.flatten().tolist()
    lengths = [len(list(run)) for _, run in groupby(column_by_column)]
    return [0, *lengths] if column_by_column[0] else lengths


def pack(lengths: Sequence[int]) -> str:
    """The inverse of unpack."""
    text = ""
    for index, length in enumerate(lengths):
        value = length - lengths[index - 2] if index > 2 else length
        while True:
            group, value = value & 31, value >> 5
            done = value == (-1 if group & 16 else 0)
            text += chr(group + 48 + (0 if done else 32))
            if done:
                break
    return text


def masks() -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :45]
    disc = (rows - 30) ** 2 + (columns - 20) ** 2 < 200
    full = np.ones((7, 5), bool)
    return [disc, ~disc, rng.random((13, 31)) < 0.5, full, ~full, rows > 30]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("packed", [False, True])
def test_run_lengths_give_the_mask_they_were_made_of(number: int, packed: bool) -> None:
    mask = masks()[number]
    lengths = run_lengths(mask)
    counts = pack(lengths) if packed else lengths
    height, width = mask.shape
    np.testing.assert_array_equal(rasterise({"counts": counts, "size": [height, width]}, height, width), mask)


def test_packed_numbers_of_every_size_come_back() -> None:
    lengths = [0, 1, 15, 16, 31, 32, 1023, 1024, 5, 100_000, 3, 0, 2**31]
    assert unpack(pack(lengths)) == lengths
    assert unpack("") == []


@pytest.mark.parametrize("seed", range(5))
def test_a_polygon_covers_the_pixels_whose_centres_it_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(5, 40, 9)  # partly outside the image
    corners = np.stack([30 + radii * np.cos(angles), 25 + radii * np.sin(angles)], 1)
    rows, columns = np.mgrid[:50, :70]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    expected = Outline(corners).contains_points(centres).reshape(50, 70)
    np.testing.assert_array_equal(rasterise([corners.ravel().tolist()], 50, 70), expected)


def test_polygons_of_whole_pixels_have_their_area_and_join() -> None:
    left = [2, 3, 7, 3, 7, 9, 2, 9]
    right = [5, 3, 12, 3, 12, 9, 5, 9]
    assert rasterise([left], 20, 20).sum() == 5 * 6
    assert rasterise([left, right], 20, 20).sum() == 10 * 6
    np.testing.assert_array_equal(np.argwhere(rasterise([left], 20, 20))[[0, -1]], [[3, 2], [8, 6]])


@pytest.mark.parametrize(
    "segmentation",
    [
        "polygon",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        {"counts": [10, 10], "size": [4, 4]},
        {"counts": [16], "size": [2, 8]},
        {"counts": [20, -4], "size": [4, 4]},
        {"counts": "P", "size": [4, 4]},
        {"counts": [], "size": [4, 4]},
        {"size": [4, 4]},
    ],
)
def test_what_is_no_segmentation_of_the_image_is_refused(segmentation: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        rasterise(segmentation, 4, 4)
