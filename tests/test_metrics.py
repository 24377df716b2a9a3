import itertools
import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from xconsensus.errors import InputError
from xconsensus.scores.metrics import (
    AP_WEIGHTS,
    areas,
    average_precision,
    average_precisions,
    bootstrap_correlation,
    bootstrap_mean,
    correlation,
    without_spread,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics")
Floats = NDArray[np.float64]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_average_precision_is_scikit_learns_with_and_without_ties(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-levels, levels, 300) / levels
    mask = rng.random(300) < 0.3
    expected = sklearn_metrics.average_precision_score(mask, values)
    assert average_precision(values, mask) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_maps_are_turned_without_new_ties(kind: type[np.floating]) -> None:
    rng = np.random.default_rng(4)
    mask, values = rng.random(300) < 0.3, np.asarray(1e-4 * rng.normal(size=300), kind)  # squares are 0 in 16 bits
    found = {name: average_precision(turn(values), mask) for name, turn in AP_WEIGHTS.items()}
    exact = values.astype(np.float64)
    for name, turned in (("signed", exact), ("absolute", abs(exact)), ("squared", exact**2)):
        assert found[name] == pytest.approx(sklearn_metrics.average_precision_score(mask, turned), abs=1e-12)
    assert found["absolute"] == found["squared"] != found["signed"]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("lowest", [-3, 0])
def test_average_precision_of_pixels_is_scikit_learns_in_every_precision(kind: type[np.floating], lowest: int) -> None:
    rng = np.random.default_rng(lowest + 9)
    mask = rng.random(4000) < 0.3
    values = np.asarray(
        np.maximum(rng.normal(size=4000) + mask, lowest), kind
    )  # many a tie at lowest 0, and in 16 bits
    values[:2] = -0.0, 0.0
    expected = sklearn_metrics.average_precision_score(mask, values.astype(np.float64))
    assert average_precision(values, mask) == pytest.approx(expected, abs=1e-12)
    assert average_precision(-values, mask) == pytest.approx(
        sklearn_metrics.average_precision_score(mask, -values.astype(np.float64)), abs=1e-12
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_halves_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        average_precision(np.array([0.5, value], np.float16), [True, False])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [3, 10**6])
def test_a_superpixel_counts_as_its_painted_pixels(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 20, 500)
    mask = rng.random(500) < 0.2 + 0.5 * (labels < 8)
    weights = rng.integers(-levels, levels, 20).astype(np.float32)
    counts = np.bincount(labels, minlength=20)
    positives = np.bincount(labels[mask], minlength=20)
    expected = sklearn_metrics.average_precision_score(mask, weights[labels])
    assert average_precision(weights, positives, counts) == pytest.approx(expected, abs=1e-12)


def test_many_maps_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 6, (30, 50)).astype(np.float32)
    counts = rng.integers(1, 9, 50)
    positives = rng.integers(0, counts + 1)
    one_by_one = [average_precision(values, positives, counts) for values in maps]
    np.testing.assert_array_equal(average_precisions(maps, positives, counts), one_by_one)


def test_average_precision_of_perfect_constant_and_objectless_maps() -> None:
    mask = np.array([True, False, False, True])
    assert average_precision(mask.astype(float), mask) == 1
    assert average_precision(np.zeros(4), mask) == mask.mean()
    assert np.isnan(average_precision(np.arange(4.0), np.zeros(4, bool)))


def test_average_precision_depends_on_the_order_of_values_only() -> None:
    rng = np.random.default_rng(3)
    values, mask = rng.normal(size=80), rng.random(80) < 0.4
    assert average_precision(values, mask) == average_precision(np.exp(3 * values) - 7, mask)


@pytest.mark.parametrize(
    ("values", "positives", "counts", "culprit"),
    [
        ([1.0, 2.0], [True], None, "2 values, 1 positives"),
        ([1.0, 2.0], [3, 0], [2, 2], "more positives than pixels"),
        ([1.0, 2.0], [2, 0], None, "more positives than pixels"),
        ([1.0, np.nan], [1, 0], None, "NaN"),
    ],
)
def test_average_precision_names_what_is_wrong(
    values: list[float], positives: list[int], counts: list[int] | None, culprit: str
) -> None:
    with pytest.raises(InputError, match=culprit):
        average_precision(values, positives, counts)


def test_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = np.round(x + rng.normal(size=40), 1)
    result = correlation(x, y, level=0.9)
    pearson, spearman = stats.pearsonr(x, y), stats.spearmanr(x, y)
    interval = pearson.confidence_interval(0.9)
    assert result.n == 40
    assert (result.pearson_r, result.pearson_p) == pytest.approx((pearson.statistic, pearson.pvalue))
    assert (result.pearson_low, result.pearson_high) == pytest.approx((interval.low, interval.high))
    assert (result.spearman_r, result.spearman_p) == pytest.approx((spearman.statistic, spearman.pvalue))


def test_the_spearman_interval_covers_the_true_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    pearson = 0.8
    # Rank correlation of a bivariate normal (Pearson 1907).
    truth = 6 / np.pi * np.arcsin(pearson / 2)
    covered = 0
    for _ in range(1000):
        x, noise = rng.normal(size=(2, 60))
        result = correlation(x, pearson * x + np.sqrt(1 - pearson**2) * noise)
        covered += result.spearman_low <= truth <= result.spearman_high
    assert 0.92 < covered / 1000 < 0.98


def test_spearman_interval_is_wider_than_fishers_and_narrows_with_level() -> None:
    rng = np.random.default_rng(1)
    x = np.argsort(rng.normal(size=50)).astype(float)
    y = np.argsort(np.argsort(x + rng.normal(size=50) * 20)).astype(float)
    # On ranks both coefficients agree, so only the standard errors differ.
    wide, narrow = correlation(x, y), correlation(x, y, level=0.5)
    assert wide.spearman_r == pytest.approx(wide.pearson_r)
    assert wide.spearman_low < wide.pearson_low < narrow.pearson_low < wide.pearson_r
    assert wide.pearson_r < narrow.pearson_high < wide.pearson_high < wide.spearman_high


def test_pairs_with_nan_do_not_count() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    with_gaps = correlation(np.append(x, [1.0, np.nan, 3.0]), np.append(y, [np.nan, 5.0, np.nan]))
    assert with_gaps == correlation(x, y)


@pytest.mark.parametrize("x", [[], [1.0, 2.0], [2.0] * 4, [2.0] * 6, [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3]])
def test_too_few_or_constant_values_have_no_correlation_and_no_warning(x: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = correlation(x, np.arange(len(x)))
    assert result.n == len(x)
    assert np.isnan(result.pearson_r)
    assert np.isnan(result.spearman_high)


@pytest.mark.parametrize("n", [3, 4, 5, 8, 9, 40])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_correlation_has_no_interval_and_no_warning(n: int, sign: int) -> None:
    x = np.arange(n) / 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = correlation(x, sign * (7e3 + 0.1 * x))
    assert (result.pearson_r, result.spearman_r) == pytest.approx((sign, sign))
    ends = (result.pearson_low, result.pearson_high, result.spearman_low, result.spearman_high)
    assert np.isnan(ends).all()
    # of all orders only the one observed and its reverse are as good
    assert result.spearman_p == pytest.approx(2 / math.factorial(n))
    if n <= 8:
        assert result.pearson_p == pytest.approx(2 / math.factorial(n))


def test_with_three_pairs_there_is_a_coefficient_and_its_p_but_no_interval() -> None:
    result = correlation([1.0, 2.0, 4.0], [2.0, 1.0, 3.0])
    # By hand: the centred lists' product is the distance of the places of 1 and 3, so twice each 1, 2 (here) and 3.
    assert result.pearson_r == pytest.approx(2 / np.sqrt(14 / 3 * 2))
    assert (result.pearson_p, result.spearman_r, result.spearman_p) == pytest.approx((4 / 6, 0.5, 1))
    assert np.isnan([result.pearson_low, result.pearson_high, result.spearman_low, result.spearman_high]).all()


def test_with_four_pairs_there_is_an_interval_unless_the_order_is_perfect() -> None:
    result = correlation([1, 2, 3, 4], [1, 2, 3, 9])
    assert (result.spearman_r, result.spearman_p) == pytest.approx((1, 2 / 24))
    assert np.isnan(result.spearman_low)
    # Fisher's z has the standard error 1 / sqrt(4 - 3)
    z = np.arctanh(result.pearson_r)
    assert (result.pearson_low, result.pearson_high) == pytest.approx(tuple(np.tanh([z - 1.959964, z + 1.959964])))


def p_by_counting(x: list[float], y: list[float]) -> float:
    """Two-sided p: numpy's r of each order, one at a time."""
    observed = abs(np.corrcoef(x, y)[0, 1])
    every = [abs(np.corrcoef(order, y)[0, 1]) >= observed - 1e-9 for order in itertools.permutations(x)]
    return float(np.mean(every))


@pytest.mark.parametrize("n", [3, 4, 5, 6])
@pytest.mark.parametrize("levels", [2, 3, 1000])
def test_p_of_few_pairs_is_that_of_all_orders_with_and_without_ties(n: int, levels: int) -> None:
    rng = np.random.default_rng(10 * n + levels)
    x, y = rng.integers(0, levels, (2, n)) / 7
    x[:2], y[:2] = (0, 1), (1, 2)  # not constant
    result = correlation(x, y)
    assert result.pearson_p == pytest.approx(p_by_counting(list(x), list(y)))
    ranks = [list(stats.rankdata(values)) for values in (x, y)]
    assert result.spearman_p == pytest.approx(p_by_counting(*ranks))


@pytest.mark.parametrize("levels", [3, 1000])
def test_p_of_eight_pairs_is_scipys_permutation_test(levels: int) -> None:
    x, y = np.random.default_rng(levels).integers(0, levels, (2, 8)).astype(float)
    result = correlation(x, y)
    for found, first, second in (
        (result.pearson_p, x, y),
        (result.spearman_p, stats.rankdata(x), stats.rankdata(y)),
    ):
        centred = second - second.mean()  # |sum| is |r| but for a factor
        test = stats.permutation_test(
            [first],
            lambda order, centred=centred: float(abs(order @ centred)),
            permutation_type="pairings",
            n_resamples=50_000,  # more than 8! are all
            alternative="greater",
        )
        assert found == pytest.approx(test.pvalue)


def test_p_does_not_depend_on_scale_or_place() -> None:
    x, y = [0.1, 0.2, 0.3, 0.3, 0.5], [0.3, 0.1, 0.2, 0.4, 0.4]
    result = correlation(x, y)
    moved = correlation(1e-200 * np.array(x), np.array(y) + 1e4)
    assert (moved.pearson_p, moved.spearman_p) == (result.pearson_p, result.spearman_p)


def test_p_of_nine_pairs_is_scipys_by_the_t_distribution() -> None:
    x, y = np.random.default_rng(9).normal(size=(2, 9))
    result = correlation(x, y)
    assert result.pearson_p == pytest.approx(stats.pearsonr(x, y).pvalue)
    assert result.spearman_p == pytest.approx(stats.spearmanr(x, y).pvalue)
    # near the border both ways of computing p agree
    eight = correlation(x[:8], y[:8])
    assert eight.pearson_p == pytest.approx(stats.pearsonr(x[:8], y[:8]).pvalue, abs=0.05)


def test_correlation_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(InputError, match="3 values against 2"):
        correlation([1, 2, 3], [1, 2])


def test_bootstrap_interval_is_the_normal_one_for_many_images() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(loc=[0.2, 0.5], scale=[1, 3], size=(2000, 2))
    low, high = bootstrap_mean(samples, draws=2000, seed=1)
    error = samples.std(axis=0) / np.sqrt(2000)
    np.testing.assert_allclose(low, samples.mean(axis=0) - 1.96 * error, atol=0.2 * error.max())
    np.testing.assert_allclose(high, samples.mean(axis=0) + 1.96 * error, atol=0.2 * error.max())


def test_bootstrap_shares_the_images_of_a_draw_among_members() -> None:
    samples = np.random.default_rng(0).random((30, 1))
    low, high = bootstrap_mean(np.hstack([samples, samples + 1, 1 - samples]), draws=200)
    assert low[1] - low[0] == pytest.approx(1)
    assert (low[2], high[2]) == pytest.approx((1 - high[0], 1 - low[0]))


def test_bootstrap_does_not_depend_on_other_members_and_depends_on_seed() -> None:
    samples = np.random.default_rng(0).random((30, 4))
    low, high = bootstrap_mean(samples, draws=100, seed=5)
    np.testing.assert_allclose(bootstrap_mean(samples[:, :1], draws=100, seed=5), [low[:1], high[:1]])
    assert not np.array_equal(low, bootstrap_mean(samples, draws=100, seed=6)[0])


def test_the_interval_over_members_of_one_image_is_scipys_bootstrap_of_pairs() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    found = bootstrap_correlation(x[None], y, draws=4000)

    def r(first: Floats, second: Floats, axis: int = -1) -> Floats:
        return np.asarray(stats.pearsonr(first, second, axis=axis).statistic)

    theirs = stats.bootstrap(
        (x, y), r, n_resamples=4000, paired=True, method="percentile", vectorized=True, random_state=0
    ).confidence_interval
    np.testing.assert_allclose(found, [theirs.low, theirs.high], atol=0.03)


@pytest.mark.parametrize("both", [True, False])
def test_the_interval_over_members_and_images_is_that_of_drawing_both_in_turn(both: bool) -> None:
    rng = np.random.default_rng(4)
    quality = rng.normal(size=8)
    samples = quality + rng.normal(0, 3, size=(20, 8))
    second = quality + rng.normal(0, 3, size=(20, 8)) if both else quality
    found = bootstrap_correlation(samples, second, draws=3000, level=0.8)
    plain = []
    for _ in range(3000):
        images, members = rng.integers(20, size=20), rng.integers(8, size=8)
        y = second[images].mean(0) if both else second
        plain.append(np.corrcoef(samples[images].mean(0)[members], y[members])[0, 1])
    np.testing.assert_allclose(found, np.nanpercentile(plain, [10, 90]), atol=0.06)


def test_what_is_drawn_has_a_wider_interval_where_images_differ() -> None:
    quality = np.linspace(0, 1, 9)
    rng = np.random.default_rng(5)
    alike, unlike = quality + rng.normal(0, 0.3, 9) + np.zeros((30, 1)), quality + rng.normal(0, 6, (30, 9))
    unlike += alike.mean(0) - unlike.mean(0)  # of the same means, so of the same r
    narrow, wide = (np.subtract(*bootstrap_correlation(each, quality)[::-1]) for each in (alike, unlike))
    assert wide > 1.2 * narrow


def test_members_without_a_number_are_left_out_of_the_interval_of_r() -> None:
    rng = np.random.default_rng(6)
    samples, second = rng.normal(size=(10, 6)), rng.normal(size=6)
    kept = bootstrap_correlation(samples, second)
    blank = np.hstack([samples, np.full((10, 1), np.nan), rng.normal(size=(10, 1))])
    assert bootstrap_correlation(blank, [*second, 1.0, np.nan]) == kept
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(bootstrap_correlation(samples[:, :3], second[:3])).all()
        assert np.isnan(bootstrap_correlation(samples, np.ones(6))).all()


@pytest.mark.parametrize(("first", "second"), [((6,), (6,)), ((4, 6), (5,)), ((4, 6), (3, 6)), ((0, 6), (6,))])
def test_samples_of_other_images_or_members_have_no_interval_of_r(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="bootstrap: samples of shapes"):
        bootstrap_correlation(np.ones(first), np.ones(second))


def test_bootstrap_leaves_out_nan_and_gives_nan_only_to_members_without_numbers() -> None:
    samples = np.random.default_rng(0).random((40, 3))
    full_low, full_high = bootstrap_mean(samples)
    samples[:, 1] = np.nan
    samples[:35, 2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_mean(samples)
    assert (low[0], high[0]) == pytest.approx((full_low[0], full_high[0]))
    assert np.isnan(low[1])
    assert np.isnan(high[1])
    assert low[2] < np.nanmean(samples[:, 2]) < high[2]
    assert samples[35:, 2].min() <= low[2]
    assert high[2] <= samples[35:, 2].max()


def test_bootstrap_refuses_a_single_list() -> None:
    with pytest.raises(InputError, match="images, members"):
        bootstrap_mean([0.1, 0.2])


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_void_pixels_do_not_count_in_average_precision_of_pixels_and_superpixels(kind: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    mask, void = rng.random((20, 15)) < 0.3, rng.random((20, 15)) < 0.2
    pixels = rng.integers(0, 9, (20, 15)).astype(kind)
    counted = ~void
    expected = sklearn_metrics.average_precision_score(mask[counted], pixels[counted].astype(float))
    assert average_precision(pixels.ravel(), *areas(mask, None, void)) == pytest.approx(expected, abs=1e-12)
    segments = pixels.astype(int)  # a superpixel of each value, the ninth without a pixel that counts
    void |= segments == 8
    weights, counted = rng.normal(size=9).astype(kind), ~void
    expected = sklearn_metrics.average_precision_score(mask[counted], weights[segments][counted].astype(float))
    assert average_precision(weights, *areas(mask, segments, void)) == pytest.approx(expected, abs=1e-12)
    assert average_precision(weights, *areas(mask, segments, void)) != average_precision(
        weights, *areas(mask, segments)
    )


def test_what_has_one_value_alone_is_without_spread() -> None:
    np.testing.assert_array_equal(without_spread([[0.0, 0.0], [1e-30, 0.0], [3.0, 3.0]]), [True, False, True])
    assert without_spread(np.ones(1, np.float16))
