from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from xconsensus import explainers
from xconsensus.arithmetic.fewer_bits import In16Bits
from xconsensus.errors import InputError
from xconsensus.explainers import SmoothGrad
from xconsensus.explainers.explanation import Image
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.seeding import generator

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, MEAN, STD = 24, (0.5, 0.45, 0.4), (0.2, 0.25, 0.3)


def network_of(model: nn.Module, input_size: int = SIZE) -> Network:
    member = Member("a", "A", "module", "here.Model", input_size, input_size, mean=MEAN, std=STD)
    return Network(member, model)


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 5, stride=2), nn.Tanh(), nn.Conv2d(8, 8, 5, stride=2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8 * 3 * 3, 4)).eval()


def image_of(seed: int = 0, label: int = 0, size: int = SIZE) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image(pixels, label, partial(generator, seed, "image"))


def inputs_by_hand(image: Image) -> Tensor:
    return torch.from_numpy((image.pixels / 255 - MEAN) / STD).permute(2, 0, 1).float()


def noise_of(image: Image, samples: int) -> Tensor:
    """The standard normal draws of an image, one (3, H, W) a sample."""
    source = image.generator()
    return torch.stack([torch.randn(3, *image.pixels.shape[:2], generator=source) for _ in range(samples)])


def probability_of(network: nn.Module, target: int) -> Any:
    return lambda inputs: network(inputs).softmax(1)[:, target]


class Recorder(nn.Module):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs.detach().clone())
        return inputs.mean((2, 3))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_map_is_captums_saliency_of_the_same_noisy_images(noise: float, batch_size: int) -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="Captum is the reference")
    image, model, samples = image_of(1), small_model(1), 20
    ours = SmoothGrad(samples, noise)(network_of(model), image, batch_size)
    inputs = inputs_by_hand(image)
    noisy = (inputs + noise * (inputs.max() - inputs.min()) * noise_of(image, samples)).requires_grad_()
    saliency = captum_attr.Saliency(lambda x: model(x).softmax(1))
    theirs = saliency.attribute(noisy, target=ours.predicted, abs=False).mean(0).abs().sum(0).detach()
    assert torch.linalg.vector_norm(ours.values - theirs) <= 1e-5 * torch.linalg.vector_norm(theirs)


def test_map_is_captums_noise_tunnel_given_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    captum_attr = pytest.importorskip("captum.attr", reason="Captum is the reference")
    image, model, samples, noise = image_of(2), small_model(2), 16, 0.2
    ours = SmoothGrad(samples, noise)(network_of(model), image, 8)
    inputs, draws = inputs_by_hand(image), noise_of(image, samples)
    monkeypatch.setattr(torch, "normal", lambda _, deviation: deviation * draws)
    tunnel = captum_attr.NoiseTunnel(captum_attr.Saliency(lambda x: model(x).softmax(1)))
    theirs = tunnel.attribute(
        inputs[None],
        nt_type="smoothgrad",
        nt_samples=samples,
        stdevs=noise * float(inputs.max() - inputs.min()),
        target=ours.predicted,
        abs=False,
    )
    theirs = theirs[0].abs().sum(0).detach()
    assert torch.linalg.vector_norm(ours.values - theirs) <= 1e-5 * torch.linalg.vector_norm(theirs)


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_one_noiseless_sample_is_the_plain_gradient(target: str) -> None:
    network = network_of(small_model())
    predicted = SmoothGrad(1, 0)(network, image_of(3), 1).predicted
    image = image_of(3, label=(predicted + 1) % 4)
    explained = predicted if target == "predicted" else image.label
    inputs = inputs_by_hand(image)[None].requires_grad_()
    probability_of(network.model, explained)(inputs).sum().backward()
    assert inputs.grad is not None
    explanation = SmoothGrad(1, 0, target=target)(network, image, 1)
    torch.testing.assert_close(explanation.values, inputs.grad[0].abs().sum(0), rtol=1e-4, atol=1e-7)
    probability = probability_of(network.model, predicted)(inputs.detach())
    assert explanation.probability == pytest.approx(float(probability), rel=1e-5)


def test_the_gradient_of_a_linear_classifier_has_its_closed_form() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3 * SIZE * SIZE, 5)
    network, image = network_of(nn.Sequential(nn.Flatten(), linear)), image_of(4)
    probabilities = linear(inputs_by_hand(image).flatten()).softmax(0).detach()
    weight = linear.weight.detach()
    explanation = SmoothGrad(1, 0)(network, image, 1)
    t = int(probabilities.argmax())
    assert explanation.predicted == t
    expected = probabilities[t] * (weight[t] - probabilities @ weight)
    expected = expected.view(3, SIZE, SIZE).abs().sum(0)
    torch.testing.assert_close(explanation.values, expected, rtol=1e-4, atol=1e-7)


def test_signed_gradients_are_averaged_before_the_absolute_value() -> None:
    class Quadratic(nn.Module):
        """Its gradient changes sign with the noise."""

        def forward(self, inputs: Tensor) -> Tensor:
            score = (inputs**2).mean((1, 2, 3))
            return torch.stack([score, -score], 1)

    image, noise, samples = image_of(5), 0.8, 30
    network = network_of(Quadratic())
    explanation = SmoothGrad(samples, noise)(network, image, 10)
    inputs = inputs_by_hand(image)
    noisy = inputs + noise * (inputs.max() - inputs.min()) * noise_of(image, samples)
    each = torch.stack([network.gradients(one[None], explanation.predicted)[0] for one in noisy])
    signed, unsigned = each.mean(0).abs().sum(0), each.abs().mean(0).sum(0)
    torch.testing.assert_close(explanation.values, signed, rtol=1e-4, atol=1e-9)
    assert (unsigned - signed).max() > 0.1 * signed.max()


def test_gradients_are_the_finite_differences_of_the_probability() -> None:
    network = network_of(small_model()).double()
    inputs = inputs_by_hand(image_of(6)).double()[None]
    probability = probability_of(network.model, 2)
    gradient = _Double(network).gradients(inputs, 2)[0]
    step = 1e-5
    for place in [(0, 0, 0), (1, 12, 7), (2, 20, 20)]:
        moved = torch.zeros_like(inputs)
        moved[0][place] = step
        slope = (probability(inputs + moved) - probability(inputs - moved)).item() / (2 * step)
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("bias", [0.0, -12.0, -24.0])
def test_gradients_of_any_probability_fit_into_float16(bias: float) -> None:
    model = small_model()
    model.get_parameter("5.bias").data[2] += bias
    network, inputs = network_of(model), inputs_by_hand(image_of(6))[None]
    exact = network.gradients(inputs, 2)
    rounded = network_of(In16Bits(model, torch.float16)).gradients(inputs, 2)
    assert float(exact.abs().max()) < 10.0 ** (bias / 3)  # far below what float16 holds
    assert torch.linalg.vector_norm(rounded - exact) <= 0.01 * torch.linalg.vector_norm(exact)


def test_noise_is_normal_with_the_stated_deviation() -> None:
    image, recorder, samples, noise = image_of(7), Recorder(), 40, 0.15
    network = network_of(recorder)
    SmoothGrad(samples, noise)(network, image, 16)
    clean, noisy = recorder.seen[0][0], torch.cat(recorder.seen[1:])
    assert torch.equal(clean, network.normalise(torch.from_numpy(image.pixels).permute(2, 0, 1)))
    assert noisy.shape == (samples, 3, SIZE, SIZE)
    standard = ((noisy - clean) / (noise * (clean.max() - clean.min()))).flatten().double()
    n = standard.numel()
    assert abs(float(standard.mean())) < 5 / n**0.5
    assert abs(float(standard.std()) - 1) < 5 / (2 * n) ** 0.5
    assert stats.kstest(standard.numpy(), "norm").pvalue > 1e-3


def test_noise_depends_on_the_image_alone() -> None:
    def shown(seed: int, batch_size: int, samples: int = 13) -> Tensor:
        recorder = Recorder()
        SmoothGrad(samples)(network_of(recorder), image_of(seed), batch_size)
        return torch.cat(recorder.seen)

    first = shown(0, 13)
    for batch_size in (1, 5, 12, 100):
        assert torch.equal(shown(0, batch_size), first)
    assert torch.equal(shown(0, 4, samples=20)[: len(first)], first)
    assert not torch.equal(shown(1, 13), first)


def test_batch_size_changes_the_last_bit_at_most_where_the_networks_arithmetic_is_exact() -> None:
    class WholeNumbers(nn.Module):
        """Sums of whole numbers are exact in any order; the gradient is elementwise."""

        def forward(self, inputs: Tensor) -> Tensor:
            score = inputs.round().sum((1, 2, 3)) / 2**16 + (inputs[:, 0, 3, 4] * inputs[:, 1, 5, 6]) / 2**20
            return torch.stack([score, -score], 1)

    member = Member("a", "A", "module", "here.Model", SIZE, SIZE, mean=(0, 0, 0), std=(1 / 255,) * 3)
    network, image = Network(member, WholeNumbers()), image_of(8)
    whole = SmoothGrad(23)(network, image, 23)
    assert whole.values[3, 4] > 0
    for batch_size in (1, 4, 22):
        torch.testing.assert_close(SmoothGrad(23)(network, image, batch_size).values, whole.values, rtol=2**-23, atol=0)


def test_batch_size_changes_a_convolutional_networks_explanation_by_rounding_only() -> None:
    network, image = network_of(small_model()), image_of(8)
    whole = SmoothGrad(23)(network, image, 23).values
    for batch_size in (1, 4, 22):
        part = SmoothGrad(23)(network, image, batch_size).values
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-5 * float(whole.max()))


def test_identical_members_have_the_same_explanation_and_others_another() -> None:
    image = image_of(9)
    one, same, other = (SmoothGrad(6)(network_of(small_model(seed)), image, 3).values for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, rtol=0.1)


def test_a_network_of_another_input_size_is_explained_on_the_images_pixels() -> None:
    image, model, inputs = image_of(10, size=40), small_model(), inputs_by_hand(image_of(10, size=40))
    explanation = SmoothGrad(1, 0)(network_of(model), image, 1)
    assert explanation.values.shape == (40, 40)
    assert explanation.values.dtype == torch.float32
    inputs = inputs[None].requires_grad_()
    resized = nn.functional.interpolate(inputs, (SIZE, SIZE), mode="bicubic", antialias=True)
    probability_of(model, explanation.predicted)(resized).sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(explanation.values, inputs.grad[0].abs().sum(0), rtol=1e-4, atol=1e-7)


def test_explaining_leaves_the_network_as_it_was() -> None:
    network = network_of(small_model())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    SmoothGrad(3)(network, image_of(), 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"samples": 0}, "samples=0"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"target": "truth"}, "target=truth"),
        ({"ridge": 1.0}, "ridge"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        explainers.make("smoothgrad", settings)


def test_passes_counts_the_images_shown_to_the_network() -> None:
    recorder = Recorder()
    SmoothGrad(9)(network_of(recorder), image_of(), 4)
    assert SmoothGrad(9).passes() == (sum(map(len, recorder.seen)), 9)


class _Double(Network):
    """A network that keeps float64, for finite differences."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.member, network.model)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits


@pytest.mark.parametrize("lead", [90.0, 100.0, 1000.0])
def test_outputs_that_are_saturated_give_a_map_of_zeros(lead: float) -> None:
    class Sure(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            change = inputs.flatten(1).mean(1)
            return torch.stack([change + lead, -change], 1)

    found = SmoothGrad(samples=4)(network_of(Sure()), image_of(), 2)
    assert (found.values == 0).all()
