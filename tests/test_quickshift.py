"""The labels are scikit-image's, on whatever image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import quickshift as reference

from xconsensus.explainers.quickshift import quickshift

PHOTOGRAPHS = Path(__file__).parents[2] / "shared/real/imagenet-sample"
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 57, 3)).astype(np.uint8)
FLAT = np.full((50, 60, 3), 200, np.uint8)
FLAT[10:30, 20:40] = 10, 200, 30
IMAGES = {
    "noise": NOISE,
    "flat areas": FLAT,
    "black and white": (RNG.random((40, 30, 1)) < 0.5).repeat(3, 2).astype(np.uint8) * 255,
    "grey": NOISE[..., :1].repeat(3, 2),
    "a row": NOISE[:1],
    "a column": NOISE[:, :1],
    "tiny": NOISE[:2, :3],
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sigma": 1},
        {"kernel_size": 3, "max_dist": 6, "ratio": 0.5},
        {"convert2lab": False},
        {"max_dist": 30, "kernel_size": 2},
        {"kernel_size": 1, "max_dist": 200, "rng": 3},
        {"max_dist": 0.5},
    ],
)
def test_labels_are_scikit_images(name: str, settings: dict[str, Any]) -> None:
    compare(IMAGES[name], settings)


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no real photographs in ../shared/real")
@pytest.mark.parametrize("settings", [{"sigma": 1}, {"sigma": 1, "ratio": 0.5, "kernel_size": 3, "max_dist": 20}])
def test_labels_are_scikit_images_on_photographs(settings: dict[str, Any]) -> None:
    for path in sorted(PHOTOGRAPHS.glob("*/*.JPEG"))[::100]:
        with Image.open(path) as photograph:
            compare(np.asarray(photograph.convert("RGB").resize((112, 96))), settings)


def compare(image: NDArray[np.uint8], settings: dict[str, Any]) -> None:
    expected = np.unique(reference(image, **settings), return_inverse=True)[1].reshape(image.shape[:2])
    np.testing.assert_array_equal(quickshift(image, **settings), expected)
