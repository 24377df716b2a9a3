from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.segmentation import quickshift, slic

from xconsensus.errors import InputError
from xconsensus.explainers.superpixels import segment


def picture() -> NDArray[np.uint8]:
    """Smooth colour patches with noise, 30 x 40."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (3, 4, 3)).repeat(10, 0).repeat(10, 1)
    return np.clip(patches + rng.normal(0, 12, (30, 40, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("algorithm", "function", "settings"),
    [
        ("quickshift", quickshift, {"sigma": 1}),
        ("quickshift", quickshift, {"sigma": 0.5, "kernel_size": 3, "max_dist": 6, "ratio": 0.5}),
        ("slic", slic, {"n_segments": 15, "start_label": 1}),  # scikit-image counts these from 1
        ("slic", slic, {"n_segments": 25, "compactness": 5.0}),
    ],
)
def test_superpixels_are_scikit_images_numbered_from_0_without_gaps(
    algorithm: str, function: Any, settings: dict[str, Any]
) -> None:
    labels = segment(picture(), algorithm, settings)
    reference = function(picture(), **settings)
    assert labels.dtype == np.int32
    assert labels.shape == (30, 40)
    k = int(labels.max()) + 1
    assert k > 3
    assert np.array_equal(np.unique(labels), np.arange(k))
    pairs = set(zip(labels.ravel().tolist(), reference.ravel().tolist(), strict=True))
    assert len(pairs) == k == len(np.unique(reference))


def test_an_image_has_one_label_map() -> None:
    pixels = picture()
    assert np.array_equal(segment(pixels, "quickshift", {"sigma": 1}), segment(picture(), "quickshift", {"sigma": 1}))
    assert np.array_equal(pixels, picture())


def test_settings_change_the_superpixels() -> None:
    small, large = (segment(picture(), "quickshift", {"max_dist": distance}).max() for distance in (3, 30))
    assert small > large


def test_a_uniform_image_can_be_segmented() -> None:
    labels = segment(np.full((20, 20, 3), 127, np.uint8), "quickshift", {"sigma": 1})
    assert labels.min() == 0
    assert labels.shape == (20, 20)


@pytest.mark.parametrize(
    ("algorithm", "settings", "culprit"),
    [
        ("quickshfit", {}, r"segmenter\.name=quickshfit is unknown; nearest: quickshift"),
        ("quickshift", {"n_segments": 9}, "quickshift refuses .*n_segments"),
        ("quickshift", {"kernel_size": 0.5}, "quickshift refuses .*kernel_size"),
        ("quickshift", {"return_tree": True}, "quickshift refuses .*return_tree.*no label map"),
        ("slic", {"compactness": "high"}, "slic refuses .*compactness"),
    ],
)
def test_unknown_algorithms_and_arguments_are_named(algorithm: str, settings: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        segment(picture(), algorithm, settings)
