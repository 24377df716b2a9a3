from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import null_space
from scipy.spatial.distance import cosine
from torch import Tensor, nn

from xconsensus import explainers
from xconsensus.errors import InputError
from xconsensus.explainers import Lime
from xconsensus.explainers.explanation import Image
from xconsensus.explainers.gaussian_process import fit_process
from xconsensus.explainers.lime import kernel_weights, mean_colours, perturb
from xconsensus.explainers.masks import draw_masks, draw_population, even_batches, sample_counts
from xconsensus.explainers.regression import Fit, fit
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.seeding import generator

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, MEAN, STD = 24, (0.5, 0.45, 0.4), (0.2, 0.25, 0.3)


def network_of(model: nn.Module, input_size: int = SIZE) -> Network:
    member = Member("a", "A", "module", "here.Model", input_size, input_size, mean=MEAN, std=STD)
    return Network(member, model)


def small_model(seed: int = 0, size: int = SIZE) -> nn.Module:
    torch.manual_seed(seed)
    side = ((size - 5) // 2 + 1 - 5) // 2 + 1
    layers = nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 5, stride=2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * side**2, 4)).eval()


def image_of(seed: int = 0, label: int = 0) -> Image:
    """Random colours on a grid of 16 superpixels of unequal size."""
    rng = np.random.default_rng(seed)
    edges = np.searchsorted([3, 9, 16], np.arange(SIZE), side="right")
    segments = torch.from_numpy(edges[:, None] * 4 + edges)
    colours = rng.integers(0, 256, (16, 3))[segments] + rng.integers(-60, 60, (SIZE, SIZE, 3))
    pixels = np.clip(colours, 0, 255).astype(np.uint8)
    return Image(pixels, label, partial(generator, seed, "image"), segments)


def masks_of(image: Image, samples: int, keep: float = 0.5) -> Tensor:
    masks = draw_masks(samples, 16, "iid", keep, image.generator())
    masks[0] = True
    return masks


def probabilities_by_hand(model: nn.Module, images: NDArray[Any]) -> NDArray[Any]:
    inputs = torch.from_numpy((images / 255 - MEAN) / STD).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        probabilities: NDArray[Any] = model(inputs).softmax(1).numpy()
    return probabilities


class Recorder(nn.Module):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.clone())
        return inputs.mean((2, 3))


class LinearProbability(nn.Module):
    """Class 0 has probability offset + <pixels, weight>, so it is linear in the presence of superpixels too."""

    def __init__(self, weight: Tensor, offset: float) -> None:
        super().__init__()
        self.weight, self.offset = weight, offset

    def forward(self, inputs: Tensor) -> Tensor:
        probability = self.offset + (inputs.double() * self.weight).sum((1, 2, 3))
        return torch.stack([probability, 1 - probability], 1).log()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("ridge", "kernel_width"), [(1.0, 0.25), (0.0, 0.25), (0.0, 0.7)])
def test_weights_are_the_lime_packages(seed: int, ridge: float, kernel_width: float) -> None:
    lime_image = pytest.importorskip("lime.lime_image", reason="the lime package is the reference")
    linear_model = pytest.importorskip("sklearn.linear_model")
    image, model, samples = image_of(seed), small_model(seed), 150
    masks = masks_of(image, samples)

    class OurMasks:
        def randint(self, *_: int) -> NDArray[np.int64]:
            return masks.numpy().astype(np.int64).ravel()

    reference = lime_image.LimeImageExplainer(kernel_width=kernel_width, random_state=0)
    reference.random_state = OurMasks()
    assert image.segments is not None
    segments = image.segments.numpy()
    theirs = reference.explain_instance(
        image.pixels,
        partial(probabilities_by_hand, model),
        top_labels=1,
        num_samples=samples,
        segmentation_fn=lambda _: segments,
        model_regressor=None if ridge else linear_model.LinearRegression(),
        random_seed=0,
    )
    ours = Lime(samples, kernel_width=kernel_width, ridge=ridge)(network_of(model), image, 64)
    assert ours.predicted == theirs.top_labels[0]
    expected = np.array([weight for _, weight in sorted(theirs.local_exp[ours.predicted])])
    assert np.linalg.norm(ours.values.numpy() - expected) <= 1e-4 * np.linalg.norm(expected)
    assert ours.fields["intercept"] == pytest.approx(theirs.intercept[ours.predicted], rel=1e-4)
    assert ours.fields["r2"] == pytest.approx(theirs.score, rel=1e-4)


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_weights_are_captums(ridge: float) -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="Captum is the reference")
    models = pytest.importorskip("captum._utils.models.linear_model")
    image, model, samples, width = image_of(5), small_model(5), 150, 0.25
    network = network_of(model)
    assert image.segments is not None
    segments, masks = image.segments, masks_of(image, samples)
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
    original, hidden = network.normalise(pixels), network.normalise(mean_colours(pixels, segments))

    def show(mask: Tensor, *_: Tensor, **__: object) -> Tensor:
        presence = mask[0, segments]
        return (original * presence + hidden * (1 - presence))[None]

    def in_turn(*_: object, **__: object) -> Iterator[Tensor]:
        for row in masks:
            yield row[None].float()

    def similarity(_: Tensor, __: Tensor, mask: Tensor, **___: object) -> float:
        distance = cosine(mask[0].numpy(), np.ones(16))
        return float(np.sqrt(np.exp(-(distance**2) / width**2)))

    reference = captum_attr.LimeBase(
        lambda inputs: model(inputs).softmax(1),
        models.SkLearnRidge(alpha=ridge) if ridge else models.SkLearnLinearRegression(),
        similarity_func=similarity,
        perturb_func=in_turn,
        perturb_interpretable_space=True,
        from_interp_rep_transform=show,
        to_interp_rep_transform=None,
    )
    ours = Lime(samples, kernel_width=width, ridge=ridge)(network, image, 64)
    theirs = reference.attribute(original[None], target=ours.predicted, n_samples=samples, perturbations_per_eval=50)
    assert torch.linalg.vector_norm(ours.values - theirs.flatten()) <= 1e-4 * torch.linalg.vector_norm(theirs)


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_a_network_linear_in_the_superpixels_gives_back_its_own_weights(target: str) -> None:
    image = image_of(1, label=1)
    assert image.segments is not None
    weight = torch.from_numpy(np.random.default_rng(0).normal(0, 3e-3, (3, SIZE, SIZE)))
    network = network_of(LinearProbability(weight, 0.6))
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
    hidden = network.normalise(mean_colours(pixels, image.segments))
    effect = ((network.normalise(pixels) - hidden) * weight).sum(0)
    expected = torch.stack([effect[image.segments == k].sum() for k in range(16)])
    background = 0.6 + float((hidden * weight).sum())
    explanation = Lime(100, target=target)(network, image, 32)
    assert explanation.predicted == 0
    assert explanation.probability == pytest.approx(background + float(expected.sum()), abs=1e-6)
    sign, intercept = (1, background) if target == "predicted" else (-1, 1 - background)
    torch.testing.assert_close(explanation.values, sign * expected.float(), rtol=1e-4, atol=1e-6)
    assert explanation.fields["intercept"] == pytest.approx(intercept, abs=1e-5)
    assert explanation.fields["r2"] == pytest.approx(1, abs=1e-5)


def test_perturbed_images_depend_on_the_image_alone() -> None:
    def shown(seed: int, batch_size: int) -> Tensor:
        recorder = Recorder()
        Lime(37)(network_of(recorder), image_of(seed), batch_size)
        return torch.cat(recorder.seen)

    first = shown(0, 37)
    assert first.shape == (38, 3, SIZE, SIZE)  # the whole image once more, for its label
    for batch_size in (1, 5, 36, 100):
        assert torch.equal(shown(0, batch_size), first)
    assert not torch.equal(shown(1, 37), first)


def test_a_network_sees_the_image_first_then_superpixels_hidden_by_their_mask() -> None:
    image, recorder = image_of(2), Recorder()
    network = network_of(recorder)
    Lime(20, keep_probability=0.3)(network, image, 8)
    assert image.segments is not None
    masks, segments = masks_of(image, 20, 0.3), image.segments.numpy()
    expected = np.repeat(image.pixels[None], 20, 0)
    for picture, mask in zip(expected, masks, strict=True):
        for k in range(16):
            if not mask[k]:
                picture[segments == k] = image.pixels[segments == k].mean(0).astype(np.uint8)
    assert np.array_equal(expected[0], image.pixels)
    label, *shown = recorder.seen
    inputs = network.normalise(torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert torch.equal(torch.cat(shown), inputs)
    assert torch.equal(label, inputs[:1])


def test_batch_size_changes_nothing_where_the_networks_arithmetic_is_exact() -> None:
    class WholeNumbers(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:  # sums of whole numbers are exact in any order
            return torch.stack([(inputs * sign).sum((1, 2, 3)) for sign in (1, -1)], 1) / 2**20

    member = Member("a", "A", "module", "here.Model", SIZE, SIZE, mean=(0, 0, 0), std=(1 / 255,) * 3)
    network, image = Network(member, WholeNumbers()), image_of(3)
    whole = Lime(61)(network, image, 61)
    for batch_size in (1, 8, 60):
        part = Lime(61)(network, image, batch_size)
        assert torch.equal(part.values, whole.values)
        assert part.fields == whole.fields


def test_batch_size_changes_a_convolutional_networks_explanation_by_rounding_only() -> None:
    network, image = network_of(small_model()), image_of(3)
    whole = Lime(61)(network, image, 61)
    scale = float(whole.values.abs().max())
    for batch_size in (1, 8, 60):
        part = Lime(61)(network, image, batch_size)
        torch.testing.assert_close(part.values, whole.values, rtol=0, atol=1e-4 * scale)


def test_identical_members_have_the_same_explanation_and_others_another() -> None:
    image = image_of(4)
    one, same, other = (Lime(50)(network_of(small_model(seed)), image, 16) for seed in (0, 0, 1))
    assert torch.equal(one.values, same.values)
    assert not torch.allclose(one.values, other.values, rtol=0.1)


def test_a_network_of_another_input_size_is_explained_on_the_images_superpixels() -> None:
    class Resizing(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor) -> Tensor:
            resized = nn.functional.interpolate(inputs, (16, 16), mode="bicubic", antialias=True)
            logits: Tensor = self.model(resized)
            return logits

    image, model = image_of(), small_model(size=16)
    resizing = Lime(60)(network_of(Resizing(model)), image, 16)
    smaller = Lime(60)(network_of(model, input_size=16), image, 16)
    assert smaller.values.shape == (16,)
    assert smaller.values.dtype == torch.float32
    torch.testing.assert_close(smaller.values, resizing.values, rtol=1e-4, atol=1e-6)


def test_iid_masks_keep_superpixels_independently() -> None:
    keep, n = 0.3, 4000
    masks = draw_masks(n, 6, "iid", keep, generator("masks"))
    assert masks.dtype == torch.bool
    rows = masks.double()
    tolerance = 5 * (keep * (1 - keep) / n) ** 0.5
    assert (rows.mean(0) - keep).abs().max() < tolerance
    together = rows.T @ rows / n
    assert (together - keep**2)[~torch.eye(6, dtype=torch.bool)].abs().max() < tolerance
    assert torch.equal(masks, draw_masks(n, 6, "iid", keep, generator("masks")))


def paired_masks(samples: int, superpixels: int, draw: torch.Generator) -> Tensor:
    return draw_population(samples, superpixels, 0.5, draw)


def hadamard_masks(samples: int, superpixels: int, draw: torch.Generator) -> Tensor:
    return draw_masks(samples, superpixels, "hadamard", 0.5, draw)


@pytest.mark.parametrize("draw", [paired_masks, hadamard_masks])
@pytest.mark.parametrize(("samples", "superpixels"), [(2, 1), (7, 5), (64, 16), (350, 100)])
def test_paired_masks_alternate_with_their_complements(draw: Any, samples: int, superpixels: int) -> None:
    masks = draw(samples, superpixels, generator("pairs"))
    assert masks.shape == (samples, superpixels)
    assert masks.dtype == torch.bool
    assert (masks[0:-1:2] ^ masks[1::2]).all()
    assert not torch.equal(masks, draw(samples, superpixels, generator("other")))


def test_a_population_keeps_superpixels_as_often_as_told() -> None:
    for keep in (0.3, 0.5):
        assert float(draw_population(4000, 6, keep, generator("population")).double().mean()) == pytest.approx(
            keep, abs=0.02
        )


@pytest.mark.parametrize(("superpixels", "order"), [(1, 2), (5, 8), (11, 12), (32, 40), (63, 64), (67, 68), (129, 132)])
def test_a_whole_hadamard_design_is_orthogonal_and_hides_each_superpixel_half_the_time(
    superpixels: int, order: int
) -> None:
    signs = 2 * draw_masks(2 * order, superpixels, "hadamard", 0.5, generator("design")).double() - 1
    assert torch.equal(signs.T @ signs, 2 * order * torch.eye(superpixels, dtype=torch.float64))
    assert (signs.sum(0) == 0).all()
    assert torch.equal(signs[::2].T @ signs[::2], order * torch.eye(superpixels, dtype=torch.float64))


EVERY = (torch.arange(1024)[:, None] >> torch.arange(10) & 1).bool()  # mask of 10 superpixels


def saturating(masks: Tensor, bend: float) -> Tensor:
    """A probability that is no linear function of the presence of 10 superpixels, and a curve of one with bend 0."""
    rng = np.random.default_rng(0)
    single, joint = torch.from_numpy(rng.normal(size=10)), torch.from_numpy(rng.normal(size=(10, 10)))
    x = masks.double()
    return (2 * x @ single + bend * ((x @ joint) * x).sum(1)).sigmoid()


def regressed(masks: Tensor, bend: float, regression: str = "linear", *, pairs: bool = False) -> Fit:
    weights, outputs = kernel_weights(masks, 0.25), saturating(masks, bend)
    if regression == "linear":
        return fit(masks, outputs, weights, pairs=pairs)
    return processed(masks, outputs, pairs=pairs)


def processed(masks: Tensor, outputs: Tensor, changes: Tensor | None = None, *, pairs: bool = False) -> Fit:
    changes = torch.ones(10) if changes is None else changes
    importance = kernel_weights(EVERY, 0.25)
    return fit_process(masks, outputs, kernel_weights(masks, 0.25), changes, EVERY, importance, pairs=pairs)


def masks_by(sampling: str, samples: int, draw: torch.Generator) -> Tensor:
    """Masks of 10 superpixels; paired: independent ones, each with its complement."""
    return paired_masks(samples, 10, draw) if sampling == "paired" else draw_masks(samples, 10, sampling, 0.5, draw)


def gap(found: Fit, complete: Fit) -> float:
    return float((found.coefficients - complete.coefficients).norm() / complete.coefficients.norm())


def test_orthogonal_designs_determine_the_weights_better_and_a_process_again() -> None:
    """Of a nonlinear function, fits of paired masks are nearer to the fit of all masks, and orthogonal ones nearest."""
    complete = regressed(EVERY, 1)

    def distance(sampling: str, regression: str) -> float:
        draws = [masks_by(sampling, 64, generator(sampling, trial)) for trial in range(40)]
        return float(np.mean([gap(regressed(masks, 1, regression), complete) for masks in draws]))

    iid, paired, hadamard, process = (
        distance(*each)
        for each in (("iid", "linear"), ("paired", "linear"), ("hadamard", "linear"), ("hadamard", "process"))
    )
    assert process < 0.75 * hadamard < 0.75 * 0.9 * paired < 0.75 * 0.9 * 0.95 * iid
    assert distance("iid", "process") < 0.85 * iid


def test_the_process_finds_the_linear_weights_of_a_curve_with_pairs_from_few_samples() -> None:
    masks = draw_masks(120, 10, "iid", 0.5, generator("few"))
    for bend in (0.0, 1.0):
        complete = regressed(EVERY, bend)
        process, linear = (regressed(masks, bend, regression) for regression in ("process", "linear"))
        assert process.r2 > 0.98 > 0.95 > complete.r2
        assert gap(process, complete) < 0.7 * gap(linear, complete)


def test_the_process_tends_to_the_linear_regression_however_wrong_the_curve() -> None:
    """Three superpixels act together, which no pair of them shows."""
    signs = 2 * EVERY.double() - 1
    outputs = 0.5 + 0.3 * signs[:, :3].prod(1) + 0.05 * signs[:, 3] - 0.02 * signs[:, 4] * signs[:, 5]
    complete = fit(EVERY, outputs, kernel_weights(EVERY, 0.25))
    order = torch.randperm(1024, generator=generator("order"))
    few, all_of_them = (processed(EVERY[order[:count]], outputs[order[:count]]) for count in (100, 1024))
    assert all_of_them.r2 < 0.2
    assert gap(all_of_them, complete) < 0.03 < 0.2 < gap(few, complete)


def test_the_process_is_scikit_learns_logistic_regression_on_superpixels_and_pairs() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    masks, changes = draw_masks(50, 10, "iid", 0.5, generator("curve")), torch.arange(1.0, 11)
    outputs, weights = saturating(masks, 1).numpy(), kernel_weights(masks, 0.25).numpy()
    w = weights / weights.sum()
    deviations = np.sqrt(changes.numpy() ** 0.75 / (changes.numpy() ** 0.75).mean())

    def features(rows: Tensor) -> NDArray[np.float64]:
        x = (rows.numpy() - 0.5) * deviations
        pairs = np.stack([x[:, j] * x[:, k] for j in range(10) for k in range(j)], 1)
        return np.hstack([x, pairs * np.sqrt((x[0] ** 2).sum() / (pairs[0] ** 2).sum())])

    mean = w @ outputs
    scale = np.sqrt(50 / (0.5 * mean * (1 - mean)))
    curve = linear_model.LogisticRegression(C=1, tol=1e-10, max_iter=10000)
    # a fraction y of 1 is weight y of 1 and weight 1 - y of 0
    curve.fit(
        features(masks.repeat(2, 1)) * scale,
        np.repeat([1, 0], 50),
        sample_weight=np.concatenate([w * outputs, w * (1 - outputs)]),
    )
    read = torch.from_numpy(curve.predict_proba(features(EVERY) * scale)[:, 1])
    found = processed(masks, torch.from_numpy(outputs), changes)
    expected = fit(EVERY, read, kernel_weights(EVERY, 0.25))
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=1e-4, atol=1e-6)


def test_a_superpixel_whose_hiding_changes_nothing_gets_no_weight_from_few_samples() -> None:
    changes = torch.tensor([1.0] * 5 + [0.0] * 5)
    masks = draw_masks(12, 10, "hadamard", 0.5, generator("twelve"))
    outputs = (4 * masks[:, 0].double() - 2 * masks[:, 1].double() - 1).sigmoid()
    knowing, ignorant = (processed(masks, outputs, each) for each in (changes, torch.ones(10)))
    assert knowing.coefficients[5:].abs().max() < 0.01
    assert ignorant.coefficients[5:].abs().max() > 0.02
    nothing = processed(masks, outputs, torch.zeros(10))
    torch.testing.assert_close(nothing.coefficients, ignorant.coefficients)


def test_the_process_of_what_determines_nothing() -> None:
    masks = draw_masks(6, 10, "iid", 0.5, generator("six"))
    few = regressed(masks, 1, "process")
    assert few.coefficients.isfinite().all()
    assert 0 <= few.reliability <= 1
    constant = processed(masks, torch.full((6,), 0.25))
    assert constant.coefficients.abs().max() < 1e-12
    assert (constant.r2, constant.reliability) == (0, 0)
    sure = processed(masks, torch.tensor([1.0, 0, 1, 1, 0, 0]))
    assert sure.coefficients.isfinite().all()
    broken = processed(masks, torch.tensor([0.5, 0, torch.nan, 1, 0, 0]))
    assert broken.coefficients.isnan().all()


@pytest.mark.parametrize("regression", ["linear", "process"])
@pytest.mark.parametrize(
    ("sampling", "samples"), [("iid", 60), ("iid", 200), ("paired", 60), ("paired", 200), ("hadamard", 56)]
)
def test_reliability_is_the_correlation_with_a_fit_of_other_masks(sampling: str, samples: int, regression: str) -> None:
    draws = [masks_by(sampling, samples, generator("draw", trial)) for trial in range(60)]
    fits = [regressed(masks, 3, regression, pairs=sampling != "iid") for masks in draws]
    found = np.corrcoef(np.stack([each.coefficients.numpy() for each in fits]))[np.triu_indices(60, 1)].mean()
    expected = float(np.mean([each.reliability for each in fits]))
    assert expected == pytest.approx(found, abs=0.1)


def test_the_reliability_of_noise_is_that_of_other_noise() -> None:
    rng = np.random.default_rng(1)
    truth = torch.from_numpy(rng.normal(size=30))
    for noise in (0.5, 4.0, 8.0):
        fits = []
        for trial in range(40):
            masks = draw_masks(300, 30, "iid", 0.5, generator("draw", trial))
            outputs = masks.double() @ truth + noise * torch.from_numpy(rng.normal(size=300))
            fits.append(fit(masks, outputs, kernel_weights(masks, 0.25)))
        found = np.corrcoef(np.stack([each.coefficients.numpy() for each in fits]))[np.triu_indices(40, 1)].mean()
        expected = float(np.mean([each.reliability for each in fits]))
        assert expected == pytest.approx(found, abs=0.05)


def test_lime_explains_by_either_regression() -> None:
    network, image = network_of(small_model()), image_of()
    linear, logistic = (Lime(2000, regression=each)(network, image, 250) for each in ("linear", "gaussian_process"))
    together = np.corrcoef(linear.values, logistic.values)[0, 1]
    assert 0.99 < together < 1
    again = Lime(2000, regression="gaussian_process")(network, image, 1000)
    torch.testing.assert_close(again.values, logistic.values, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="regression=gaussian is unknown; nearest: gaussian_process"):
        Lime(regression="gaussian")
    with pytest.raises(InputError, match="ridge"):
        Lime(regression="gaussian_process", ridge=1)


def test_with_a_tolerance_samples_are_drawn_until_the_weights_are_reliable() -> None:
    network, image = network_of(small_model()), image_of()
    strict, loose = (Lime(64, tolerance=t)(network, image, 32).fields for t in (1 - 1e-9, 1e-9))
    assert strict["samples"] == 256
    assert loose["samples"] in (16, 32)  # 16 samples do not determine 16 weights
    assert loose["reliability"] > 1e-9
    plain = Lime(64)(network, image, 32)
    assert plain.fields["samples"] == 64


def test_batches_differ_in_size_by_one_at_most() -> None:
    for rows, batch_size in ((1000, 128), (7, 3), (5, 9), (1, 1)):
        sizes = [len(batch) for batch in even_batches(torch.arange(rows), batch_size)]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == -(-rows // batch_size)
        assert torch.equal(torch.cat(even_batches(torch.arange(rows), batch_size)), torch.arange(rows))
    assert sample_counts(1000, 0.9) == [250, 500, 1000, 2000, 4000]
    assert sample_counts(1, 0.9) == sorted(set(sample_counts(1, 0.9)))


def test_hidden_superpixels_have_their_mean_colour_rounded_down() -> None:
    image = image_of(6)
    assert image.segments is not None
    segments = image.segments.numpy()
    hidden = mean_colours(torch.from_numpy(image.pixels).permute(2, 0, 1), image.segments)
    assert hidden.dtype == torch.uint8
    expected = np.empty_like(image.pixels)
    for k in range(16):
        inside = image.pixels[segments == k].astype(int)
        expected[segments == k] = inside.sum(0) // len(inside)
    assert np.array_equal(hidden.permute(1, 2, 0).numpy(), expected)


def test_perturb_keeps_visible_superpixels_and_replaces_hidden_ones() -> None:
    segments = torch.tensor([[0, 1], [2, 1]])
    original, hidden = torch.ones(3, 2, 2), torch.zeros(3, 2, 2)
    shown = perturb(original, hidden, segments, torch.tensor([[True, False, True], [False, True, False]]))
    assert shown.shape == (2, 3, 2, 2)
    for channel in range(3):
        assert shown[0, channel].tolist() == [[1, 0], [1, 0]]
        assert shown[1, channel].tolist() == [[0, 1], [0, 1]]


def test_kernel_weights_are_of_the_cosine_distance_to_the_whole_image() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    masks = draw_masks(200, 9, "iid", 0.4, generator("kernel"))
    masks[0], masks[1] = True, False
    distance = pairwise.cosine_distances(masks.numpy(), np.ones((1, 9)))[:, 0]
    np.testing.assert_allclose(kernel_weights(masks, 0.25), np.sqrt(np.exp(-(distance**2) / 0.25**2)), rtol=1e-9)
    visible = masks.any(1)
    by_scipy = [cosine(mask, np.ones(9)) for mask in masks[visible].double().numpy()]
    np.testing.assert_allclose(kernel_weights(masks[visible], 0.8) ** 2, np.exp(-((np.array(by_scipy) / 0.8) ** 2)))
    assert kernel_weights(masks, 0.25)[0] == 1


Draws = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def draws() -> Draws:
    """Masks (300, 12), outputs and weights of a noisy linear relation."""
    rng = np.random.default_rng(0)
    masks = draw_masks(300, 12, "iid", 0.5, generator("draws"))
    outputs = masks.double() @ torch.from_numpy(rng.normal(size=12)) + torch.from_numpy(rng.normal(size=300))
    return masks, outputs, torch.from_numpy(rng.random(300))


def test_fit_gives_back_the_weights_of_a_linear_model(draws: Draws) -> None:
    masks, _, weights = draws
    truth = torch.linspace(-2, 3, 12, dtype=torch.float64)
    coefficients, intercept, r2, _ = fit(masks, masks.double() @ truth - 0.7, weights)
    torch.testing.assert_close(coefficients, truth, rtol=1e-10, atol=1e-10)
    assert (intercept, r2) == pytest.approx((-0.7, 1))


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0, 50.0])
def test_fit_is_scikit_learns_regression_and_r2(draws: Draws, ridge: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    r2_score = pytest.importorskip("sklearn.metrics").r2_score
    masks, outputs, weights = (tensor.numpy() for tensor in draws)
    reference = linear_model.Ridge(alpha=ridge) if ridge else linear_model.LinearRegression()
    reference.fit(masks, outputs, sample_weight=weights)
    coefficients, intercept, r2, _ = fit(*draws, ridge)
    np.testing.assert_allclose(coefficients, reference.coef_, rtol=1e-8, atol=1e-10)
    assert intercept == pytest.approx(reference.intercept_)
    assert r2 == pytest.approx(r2_score(outputs, reference.predict(masks), sample_weight=weights))


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_fit_counts_a_sample_of_weight_two_twice(draws: Draws, ridge: float) -> None:
    masks, outputs, _ = draws
    weights = torch.ones(300, dtype=torch.float64)
    weights[:100] = 2
    weighted = fit(masks, outputs, weights, ridge)
    twice = fit(torch.cat([masks, masks[:100]]), torch.cat([outputs, outputs[:100]]), torch.ones(400), ridge)
    torch.testing.assert_close(weighted[0], twice[0], rtol=1e-9, atol=1e-9)
    assert (weighted.intercept, weighted.r2) == pytest.approx((twice.intercept, twice.r2))


def test_fit_of_fewer_samples_than_superpixels_is_the_least_norm_solution() -> None:
    masks = draw_masks(8, 20, "iid", 0.5, generator("few"))
    outputs, weights = (torch.from_numpy(values) for values in np.random.default_rng(1).random((2, 8)))
    coefficients, intercept, r2, _ = fit(masks, outputs, weights)
    x = masks.double().numpy()
    np.testing.assert_allclose(x @ coefficients.numpy() + intercept, outputs, atol=1e-9)
    # every other solution differs by a direction in which no two masks differ
    free = null_space(x[1:] - x[0])
    assert free.shape[1] >= 12
    np.testing.assert_allclose(free.T @ coefficients.numpy(), 0, atol=1e-9)
    assert r2 == pytest.approx(1)


def test_fit_of_constant_outputs_explains_nothing(draws: Draws) -> None:
    masks, _, weights = draws
    coefficients, intercept, r2, _ = fit(masks, torch.full((300,), 0.25), weights)
    assert coefficients.abs().max() < 1e-12
    assert intercept == pytest.approx(0.25)
    assert r2 == 0


@pytest.mark.parametrize("output", [torch.nan, torch.inf])
def test_fit_of_an_output_that_is_not_finite_is_nan(draws: Draws, output: float) -> None:
    masks, outputs, weights = draws
    outputs[17] = output
    coefficients, intercept, r2, _ = fit(masks, outputs, weights)
    assert coefficients.shape == (12,)
    assert coefficients.isnan().all()
    assert np.isnan([intercept, r2]).all()


def test_fit_gives_no_weight_to_a_superpixel_that_is_always_visible(draws: Draws) -> None:
    masks, outputs, weights = draws
    masks[:, 4] = True
    assert abs(fit(masks, outputs, weights)[0][4]) < 1e-9


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"samples": 1}, "samples=1"),
        ({"keep_probability": 1.0}, "keep_probability=1.0"),
        ({"kernel_width": 0.0}, "kernel_width=0.0"),
        ({"target": "truth"}, "target=truth"),
        ({"sampling": "hadamart"}, "sampling=hadamart.*nearest: hadamard"),
        ({"sampling": "paired"}, "sampling=paired.*hadamard"),
        ({"sampling": "hadamard", "keep_probability": 0.3}, "keep_probability=0.3: hadamard masks need 0.5"),
        ({"tolerance": 1.0}, "tolerance=1.0"),
        ({"sampels": 10}, "sampels.*nearest: samples"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        explainers.make("lime", settings)


def test_make_finds_an_explainer_by_name() -> None:
    assert explainers.make("lime", {"samples": 7, "ridge": 1.0}) == Lime(7, ridge=1.0)
    with pytest.raises(InputError, match=r"limee.*nearest: lime"):
        explainers.make("limee", {})


@pytest.mark.parametrize("samples", [2, 11])
def test_passes_counts_the_images_shown_to_the_network(samples: int) -> None:
    recorder = Recorder()
    Lime(samples)(network_of(recorder), image_of(), 4)
    assert (sum(map(len, recorder.seen)), 0) == Lime(samples).passes()


class Unmoved(nn.Module):
    """Logits that change by ``by`` at most, about ``level``."""

    def __init__(self, level: float, by: float) -> None:
        super().__init__()
        self.level, self.by = level, by

    def forward(self, inputs: Tensor) -> Tensor:
        change = inputs.square().flatten(1).mean(1)
        return torch.stack([self.level + self.by * change, torch.full_like(change, self.level + 0.3)], 1)


@pytest.mark.parametrize("regression", ["linear", "gaussian_process"])
@pytest.mark.parametrize(("level", "by"), [(0.0, 0.0), (0.0, 1e-7), (1000.0, 1e-4), (-90.0, 0.01)])
def test_outputs_that_are_constant_up_to_rounding_give_weights_of_zero(
    level: float, by: float, regression: str
) -> None:
    sampling = "iid" if regression == "linear" else "hadamard"
    model = Unmoved(level, by)
    if level < 0:  # so sure that the probability is 1 whatever is hidden
        model = nn.Sequential(model, nn.ConstantPad1d((0, 1), 90.0))  # type: ignore[assignment]
    lime = Lime(samples=40, sampling=sampling, regression=regression)
    found = lime(network_of(model), image_of(), 8)
    assert (found.values == 0).all()
    assert (found.fields["r2"], found.fields["reliability"]) == (0, 0)


def test_outputs_that_change_by_more_than_rounding_are_explained() -> None:
    found = Lime(samples=40)(network_of(Unmoved(0.0, 1e-4)), image_of(), 8)
    assert found.values.abs().max() > 1e-7
    assert found.fields["r2"] > 0.9
