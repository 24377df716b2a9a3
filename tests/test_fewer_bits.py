"""A network in fewer bits for one image: what it is fitted to, what is compared with float32, and what stays."""

import pytest
import torch
from test_lime import MEAN, SIZE, STD, image_of, masks_of, network_of, small_model
from torch import Tensor, nn

from xconsensus.arithmetic.fewer_bits import CHECKED, FITTED, FewerBits, ForImage, In16Bits, for_image, in_precision
from xconsensus.arithmetic.int8 import Int8
from xconsensus.explainers import Lime
from xconsensus.explainers.lime import mean_colours, perturb

pytestmark = pytest.mark.usefixtures("one_thread")
BATCHES = ([9], [1] * 9, [2, 7], [1, 8], [3, 3, 3], [5, 4], [6, 3], [7, 2])


def in_bfloat16(model: nn.Module) -> FewerBits:
    return FewerBits(network_of(model), network_of(In16Bits(model, torch.bfloat16)), "bfloat16")


def asked(network: FewerBits, images: Tensor, sizes: list[int]) -> tuple[ForImage, Tensor]:
    """What explains one image after it was called with these images in batches of these sizes, and its logits."""
    found = for_image(network)
    assert isinstance(found, ForImage)
    return found, torch.cat([found(part) for part in images.split(sizes)])


@pytest.fixture
def images() -> Tensor:
    return torch.randn(9, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Shifted(nn.Module):
    """Two classes, the first one's probability the mean red of the image, and in 16 bits ``shift`` more."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, inputs: Tensor) -> Tensor:
        red = inputs[:, 0].float().mean((1, 2)) * STD[0] + MEAN[0]
        p = red + self.shift * torch.is_autocast_enabled("cpu")
        return torch.stack([p, 1 - p], 1).log()


@pytest.mark.parametrize("shift", [0.05, -0.1])
def test_the_share_is_the_square_of_what_fewer_bits_change_by_the_variance_over_masks(shift: float) -> None:
    network, image, samples = for_image(in_bfloat16(Shifted(shift))), image_of(2), 400
    assert isinstance(network, ForImage)
    explained = Lime(samples, target="label")(network, image, 20)
    assert explained.target == image.label
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
    assert image.segments is not None
    shown = perturb(pixels, mean_colours(pixels, image.segments), image.segments, masks_of(image, samples))
    variance = (shown[:, 0].double() / 255).mean((1, 2)).var()
    assert network.share_of_error(image.label) == pytest.approx(shift**2 / float(variance), rel=0.1)


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_few_samples_are_checked_as_far_as_they_go(samples: int) -> None:
    network = for_image(in_bfloat16(Shifted(0.1)))
    assert isinstance(network, ForImage)
    predicted = Lime(samples)(network, image_of(2), 20).predicted
    assert (network.share_of_error(predicted) > 0) == (samples > 2)


@pytest.mark.parametrize("sizes", BATCHES)
def test_the_share_is_that_of_the_plain_computation_whatever_the_batches(sizes: list[int], images: Tensor) -> None:
    network = in_bfloat16(small_model())
    found, logits = asked(network, images, sizes)
    outputs = logits.softmax(1).double()
    exact, rounded = (each(images).softmax(1).double() for each in (network.network, network.rounded))
    torch.testing.assert_close(outputs, rounded, rtol=1e-5, atol=1e-7)
    rows = slice(FITTED, FITTED + CHECKED)
    for target in range(4):
        expected = (rounded[rows] - exact[rows])[:, target].square().mean() / outputs[:, target].var()
        assert found.share_of_error(target) == pytest.approx(float(expected), rel=1e-2)
        assert found.share_of_error(target) > 0


class Fitting(Int8):
    """What stands in for a model in bytes: its logits are some constant more, which follows from what it is fitted to."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model, self.seen = model, list[Tensor]()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits + self.seen[-1].mean()

    def calibrate(self, inputs: Tensor) -> Tensor:
        self.seen.append(inputs)
        logits: Tensor = self.model(inputs)
        return logits


@pytest.mark.parametrize("sizes", BATCHES)
def test_bytes_are_fitted_to_the_first_two_inputs_whatever_the_batches(sizes: list[int], images: Tensor) -> None:
    model = small_model()
    fitting = Fitting(model)
    network = FewerBits(network_of(model), network_of(fitting), "int8")
    with torch.inference_mode():
        _, logits = asked(network, images, sizes)
    assert torch.equal(fitting.seen[-1], images[:FITTED])
    exact = network.network(images)
    torch.testing.assert_close(logits[:FITTED], exact[:FITTED])
    torch.testing.assert_close(logits[FITTED:], exact[FITTED:] + images[:FITTED].mean())
    with torch.inference_mode():
        asked(network, images.flip(0), sizes)  # the next image has a fit of its own
    assert torch.equal(fitting.seen[-1], images.flip(0)[:FITTED])


def test_in_float32_it_is_the_network_itself() -> None:
    network = network_of(small_model())
    assert in_precision(network, "float32", 4) is network
    assert for_image(network) is network


def test_labels_are_those_of_float32(images: Tensor) -> None:
    network = in_bfloat16(small_model())
    found, _ = asked(network, images, [9])
    exact = network.network(images[:1]).softmax(1)[0]
    assert found.label(images[0]) == network.network.label(images[0])
    assert found.label(images[0])[0] == int(exact.argmax())
    assert found.label(images[0])[1] == pytest.approx(float(exact.max()))
    assert found.label(images[0])[1] != network.rounded.label(images[0])[1]


def test_gradients_are_those_of_fewer_bits_and_nothing_is_compared(images: Tensor) -> None:
    network = in_bfloat16(small_model())
    found = for_image(network)
    assert isinstance(found, ForImage)
    assert torch.equal(found.gradients(images, 1), network.rounded.gradients(images, 1))
    assert not torch.equal(found.gradients(images, 1), network.network.gradients(images, 1))
    assert found.share_of_error(1) == 0


def test_outputs_have_gradients_for_explainers_that_take_their_own(images: Tensor) -> None:
    found = for_image(in_bfloat16(small_model()))
    inputs = images.clone().requires_grad_()
    found(inputs).sum().backward()
    assert inputs.grad is not None
    assert (inputs.grad.flatten(1).abs().amax(1) > 0).all()


def test_a_constant_output_that_changes_has_an_infinite_share(images: Tensor) -> None:
    class Constant(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            step = float(torch.is_autocast_enabled("cpu"))
            return torch.tensor([[0.0, step]]).expand(len(inputs), 2)

    found, _ = asked(in_bfloat16(Constant()), images, [9])
    assert found.share_of_error(0) == float("inf")
