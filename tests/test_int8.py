"""Passes in 8-bit integers: exact where integers are, near float32 elsewhere, and never where they cannot be."""

import operator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, done
from torch import Tensor, nn
from torch.nn import functional as F

from xconsensus.arithmetic import precision
from xconsensus.arithmetic.byte_layers import ByteConv2d, ToBytes
from xconsensus.arithmetic.fewer_bits import FewerBits, ForImage, in_precision
from xconsensus.arithmetic.folding import fold_batch_norms
from xconsensus.arithmetic.int8 import Int8
from xconsensus.arithmetic.onednn import Scale, add_to, in_one_pass, in_three_passes, multiplies_bytes
from xconsensus.arithmetic.precision import by_rule
from xconsensus.compat import torchvision
from xconsensus.errors import InputError
from xconsensus.members.member import members_of
from xconsensus.members.network import Network
from xconsensus.store.tensors import read_header, read_tensors

timm = pytest.importorskip("timm")
REAL = Path(__file__).parents[2] / "shared/real"
needs_bytes = pytest.mark.skipif(
    not multiplies_bytes(torch.device("cpu")), reason="this processor has no instructions for bytes (VNNI)"
)


def scale_over(low: float, high: float) -> Scale:
    scale = Scale()
    scale.cover(low, high)
    return scale


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-3.0, 1.5), (-2.0, -1.0), (1.0, 9.0), (0.0, 0.0)])
@pytest.mark.parametrize("to_bytes", [in_one_pass, in_three_passes])
def test_bytes_are_the_nearest_ones_and_0_is_one_of_them(low: float, high: float, to_bytes: object) -> None:
    assert callable(to_bytes)
    scale = scale_over(low, high)
    values = torch.linspace(low, high, 1001).view(1, 7, 11, 13).contiguous(memory_format=torch.channels_last)
    found = to_bytes(values, scale)
    assert found.dtype == torch.uint8
    assert found.stride() == values.stride()
    assert 0 <= scale.zero <= 255
    back = (found.double() - scale.zero) * scale.step
    assert (back - values).abs().max() <= scale.step / 2 * 1.01
    assert (to_bytes(torch.zeros(3), scale) == scale.zero).all()
    beyond = to_bytes(torch.tensor([-100.0, 100.0]), scale)
    assert beyond.tolist() == [0, 255]


def with_step(weight: Tensor) -> Tensor:
    """Weights that 8 bits hold exactly: whole multiples, up to 127, of one step a channel."""
    whole = (weight * 127).round()
    whole[:, 0, 0, 0] = 127
    return whole * torch.linspace(0.01, 0.02, len(weight)).view(-1, 1, 1, 1)


@needs_bytes
@pytest.mark.parametrize("zero", [0, 37, 128])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
        {"kernel_size": 5, "padding": 2, "groups": 8},
    ],
)
@pytest.mark.parametrize(
    ("activation", "reference"),
    [
        ("none", lambda x: x),
        ("relu", F.relu),
        ("hardtanh", F.relu6),
        ("swish", F.silu),
        ("hardswish", F.hardswish),
    ],
)
def test_a_convolution_of_bytes_is_that_of_the_numbers_they_stand_for(
    zero: int, options: dict[str, int], activation: str, reference: object
) -> None:
    assert callable(reference)
    torch.manual_seed(zero)
    convolution = nn.Conv2d(8, 16, **options).requires_grad_(False)  # type: ignore[arg-type]
    convolution.weight.copy_(with_step(convolution.weight))
    source, result = Scale(0.03, zero), Scale(0.05, 20)
    inputs = torch.randint(0, 256, (3, 8, 9, 7), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    expected = reference(convolution.double()((inputs.double() - zero) * source.step))
    convolution.float()
    plain = ByteConv2d(convolution, activation, source, None)(inputs)
    torch.testing.assert_close(plain.double(), expected, rtol=1e-5, atol=1e-5)
    packed = ByteConv2d(convolution, activation, source, result)(inputs)
    assert packed.dtype == torch.uint8
    wanted = (expected / result.step + result.zero).clamp(0, 255)
    assert (packed.double() - wanted).abs().max() <= 0.5 + 1e-3


class Branches(nn.Module):
    """What networks do beside calling modules in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.twice, self.same = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding="same")
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.relu(self.stem(inputs))
        x = x + self.relu(self.two(torch.relu(self.one(x))))  # a chain, and a sum
        x = self.twice(self.twice(x).relu()) + self.reflected(self.same(x))
        x = torch.cat([F.max_pool2d(x, 2), -F.avg_pool2d(x, 2)], 1)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def conversions(found: Int8) -> int:
    return sum(isinstance(module, ToBytes) for module in found.rounded.modules())


def convolutions(found: Int8) -> int:
    return sum(isinstance(module, ByteConv2d) for module in found.rounded.modules())


@needs_bytes
def test_a_chain_hands_on_bytes_and_what_cannot_take_them_stays() -> None:
    torch.manual_seed(0)
    model, inputs = Branches().eval(), torch.randn(4, 3, 16, 16)
    before = model(inputs)
    found = Int8(model, inputs)
    # of `one` and `two`: the stem sees the image, the others repeat, or pad otherwise
    assert (convolutions(found), conversions(found)) == (2, 1)
    assert torch.equal(model(inputs), before)
    with torch.inference_mode():
        error = (found(inputs) - before).norm() / before.norm()
    assert 0 < error < 0.02


def round_in_place(model: nn.Module, found: Int8) -> None:
    """Have the model compute in float32 with the numbers that ``found``'s bytes stand for."""
    for name, own in found.rounded.named_modules():
        if isinstance(own, ByteConv2d):
            convolution, scale = model.get_submodule(name), own.source
            assert isinstance(convolution, nn.Conv2d)
            steps = convolution.weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30) / 127
            convolution.weight = nn.Parameter((convolution.weight / steps).round() * steps, requires_grad=False)
            convolution.bias = nn.Parameter(own.bias.clone(), requires_grad=False)

            def rounded(_: nn.Module, given: tuple[Tensor], scale: Scale = scale) -> tuple[Tensor]:
                steps = (given[0] / scale.step + scale.zero).round().clamp(0, 255)
                return ((steps - scale.zero) * scale.step,)

            convolution.register_forward_pre_hook(rounded)


@needs_bytes
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121"),
        *("googlenet", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5"),
    ],
)
def test_a_network_in_bytes_is_that_network_with_rounded_numbers(name: str) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=20, **options).requires_grad_(False)
    inputs = torch.randn(6, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(inputs)  # normalisations take the statistics of their inputs, or nothing would reach the logits
    model.eval()
    fold_batch_norms(model, inputs[:1])
    found = Int8(model, inputs[:2])
    assert convolutions(found) > 10
    with torch.inference_mode():
        logits = found(inputs)
    round_in_place(model, found)
    expected = model(inputs)
    # what differs between images; a number at the middle of two bytes may become either, and all later ones with it
    one, other = ((x - x.mean(0)).flatten() for x in (logits, expected))
    assert float(F.cosine_similarity(one, other, dim=0)) > 0.98


class Forked(nn.Module):
    """One value that two convolutions take, the first by way of a module that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.nothing = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stem(inputs)
        return torch.cat([self.one(self.nothing(x)), self.two(x)], 1).mean((2, 3))


@needs_bytes
def test_two_convolutions_of_one_value_share_its_bytes() -> None:
    torch.manual_seed(0)
    model, inputs = Forked().eval(), torch.randn(2, 3, 16, 16)
    found = Int8(model, inputs)
    assert (convolutions(found), conversions(found)) == (2, 1)
    with torch.inference_mode():
        assert (found(inputs) - model(inputs)).norm() < 0.02 * model(inputs).norm()


@needs_bytes
def test_a_residual_network_adds_in_place() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).eval().requires_grad_(False)
    inputs = torch.randn(2, 3, 32, 32)
    fold_batch_norms(model, inputs)
    found = Int8(model, inputs)
    targets = [node.target for node in found.rounded.graph.nodes]
    assert (targets.count(add_to), targets.count(operator.add)) == (8, 0)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 1), (1, 3, 4, 5), ()])
def test_sums_are_sums_whatever_their_shapes(shape: tuple[int, ...], relu: bool) -> None:
    torch.manual_seed(0)
    for own, other in ((torch.randn(2, 3, 4, 5), torch.randn(shape)), (torch.randn(2, 3, 1, 1), torch.randn(shape))):
        expected = (own + other).clamp_min(0) if relu else own + other
        assert torch.equal(add_to(own.clone(), other, relu), expected)
    assert torch.equal(add_to(torch.ones(2), -3.0, relu), torch.full((2,), 0.0 if relu else -2.0))


@needs_bytes
def test_calibration_leaves_no_mean_error_in_any_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3)).eval()
    inputs = torch.randn(4, 3, 16, 16)
    found = Int8(nn.Sequential(model, nn.Flatten()), inputs)
    with torch.inference_mode():
        for scaled in (inputs, 30 * inputs):  # each calibration forgets the one before
            found.calibrate(scaled)
            means = [logits.view(4, 6, -1).mean((0, 2)) for logits in (found(scaled), model(scaled).flatten(1))]
            torch.testing.assert_close(means[0], means[1], rtol=1e-4, atol=1e-5 * float(means[1].abs().max()))


class Undecided(nn.Module):
    """Code that depends on the values, which no tracing can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten())

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs if inputs.sum() > 0 else -inputs)
        return found


def network_of(model: nn.Module, size: int = 16) -> Network:
    (member,) = members_of({"odd": {"library": "timm", "model": "resnet18"}}, defaults={}, size=size, resize=size)
    return Network(member, model)


@needs_bytes
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Undecided(), "control flow"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), "no convolution"),
        (nn.Sequential(nn.Conv2d(3, 5, 16), nn.Flatten()), "no convolution"),
    ],
)
def test_a_network_that_cannot_is_named_and_auto_goes_on_without(model: nn.Module, reason: str) -> None:
    network = network_of(model)
    with pytest.raises(InputError, match=f"int8: member odd cannot .*{reason}"):
        in_precision(network, "int8", 5)
    assert by_rule(network, ["int8"], 5) is network


@needs_bytes
@pytest.mark.parametrize(
    ("products", "bound", "expected"), [(1e9, 0.5, "float32"), (0, 0.5, "int8"), (0, 1e-9, "float32")]
)
def test_auto_takes_8_bits_where_they_pay_and_change_little(
    monkeypatch: pytest.MonkeyPatch, products: float, bound: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "_FAITHFUL", bound)
    monkeypatch.setattr(precision, "_WORTH", products)
    network = network_of(timm.create_model("test_resnet", num_classes=5), 32)
    found = by_rule(network, ["int8"], 5)
    assert (found.precision if isinstance(found, FewerBits) else "float32") == expected


@needs_bytes
def test_labels_and_the_first_outputs_are_those_of_float32() -> None:
    network = network_of(timm.create_model("test_resnet", num_classes=5), 32)
    images = torch.randn(5, 3, 32, 32)
    fewer = in_precision(network, "int8", 5)
    assert isinstance(fewer, FewerBits)
    found = ForImage(fewer)
    with torch.inference_mode():
        logits, exact = found(images), network(images)
    torch.testing.assert_close(logits[:2], exact[:2])
    assert not torch.equal(logits[2:], exact[2:])
    assert found.label(images[0]) == network.label(images[0])
    assert 0 < found.share_of_error(0) < 1


@needs_bytes
def test_explanations_are_near_those_of_float32_whatever_the_batch(quartet_copy: Project) -> None:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, kind, size in (("exact", "float32", 20), ("bytes", "int8", 20), ("few", "int8", 3)):
        settings = (f"explainer.name={name}", f"explain.precision={kind}", f"explain.batch_size={size}")
        quartet_copy.done("explain", "explainer=lime", "committee.only=[resnet]", *settings)
        files = sorted(quartet_copy.outputs.rglob(f"explanations/{name}/*/*.safetensors"))
        assert {read_header(path)["precision"] for path in files} == {kind}
        found[name] = {path.name: read_tensors(path)["values"].numpy() for path in files}
    assert found["exact"].keys() == found["bytes"].keys() == found["few"].keys()
    for name, weights in found["exact"].items():
        assert 0.95 < np.corrcoef(weights, found["bytes"][name])[0, 1] < 1
        np.testing.assert_allclose(found["bytes"][name], found["few"][name], rtol=1e-3, atol=1e-4 * abs(weights).max())


@needs_bytes
@pytest.mark.skipif(not REAL.is_dir(), reason="no real photographs and networks in ../shared/real")
def test_explanations_of_real_networks_are_near_those_of_float32(tmp_path: Path) -> None:
    given = (
        *("experiment=imagenet_sample", f"root={REAL}", f"output_dir={tmp_path}", "explainer=lime"),
        *("committee.only=[squeezenet1_1,tiny_darknet]", "explain.only_correct=none", "explain.images=2"),
        *("explainer.samples=100", "progress=off"),
    )
    found = {}
    for kind in ("float32", "int8"):
        done("explain", *given, f"explain.precision={kind}", f"explainer.name={kind}")
        files = sorted(tmp_path.rglob(f"explanations/{kind}/*/*.safetensors"))
        found[kind] = [read_tensors(path)["values"].numpy() for path in files]
    assert len(found["int8"]) == 2
    for exact, rounded in zip(*found.values(), strict=True):
        assert 0.97 < np.corrcoef(exact, rounded)[0, 1] < 1


@pytest.mark.parametrize(
    ("explainer", "able", "reason"), [("smoothgrad", True, "this explainer"), ("lime", False, "VNNI")]
)
def test_bytes_that_cannot_be_are_refused_at_once(
    predicted: Project, monkeypatch: pytest.MonkeyPatch, explainer: str, able: bool, reason: str
) -> None:
    monkeypatch.setattr(precision, "multiplies_bytes", lambda _: able)
    before = predicted.files()
    outcome = predicted.run("explain", f"explainer={explainer}", "explain.precision=int8")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: explain.precision=int8: ")
    assert reason in line
    assert predicted.files() == before
