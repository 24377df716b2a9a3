"""Maps that no network made, beside the consensus."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

from xconsensus.scores.alignment import baselines_table, centred, own_areas


def test_the_centred_map_falls_with_the_distance_to_the_centre() -> None:
    far = np.ones((7, 7), bool)
    far[3, 3] = False
    np.testing.assert_allclose(centred(7), -distance_transform_edt(far))
    assert centred(4).max() == pytest.approx(-np.hypot(0.5, 0.5))


def test_each_pixel_has_the_area_of_its_superpixel() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (9, 9))
    sizes = pd.Series(labels.ravel()).map(pd.Series(labels.ravel()).value_counts())
    np.testing.assert_array_equal(own_areas(labels).ravel(), sizes)


def test_a_map_that_exceeds_members_names_them_and_void_pixels_do_not_count() -> None:
    draws = np.random.default_rng(1)
    images = [(draws.random((6, 6)) < 0.4, draws.random((6, 6)) < 0.8, {"noise": draws.random((6, 6))}) for _ in "abc"]
    expected = np.mean([average_precision_score(m[c], maps["noise"][c]) for m, c, maps in images])
    below, above = expected - 0.01, expected + 0.01
    members = pd.DataFrame({"member": ["a", "b", "consensus"], "mean_average_precision": [below, above, above + 0.1]})
    table = baselines_table(images, members).set_index("map")
    assert table["mean_average_precision"]["noise"] == pytest.approx(expected)
    assert table["members_below"]["noise"] == "a"
    assert table["mean_average_precision"]["best member, b"] == above
    assert table["mean_average_precision"]["mean member"] == pytest.approx(expected)
    assert table["mean_average_precision"]["consensus"] == above + 0.1
