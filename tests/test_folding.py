"""Folding batch normalisation changes rounding only, whatever the architecture, and leaves alone what it cannot."""

import pytest
import torch
from torch import Tensor, nn

from xconsensus.arithmetic.folding import fold_batch_norms
from xconsensus.compat import torchvision  # noqa: F401  (timm imports torchvision)

timm = pytest.importorskip("timm")


def with_statistics(model: nn.Module) -> nn.Module:
    """The model with normalisations that do something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.eval().requires_grad_(False)


def output_and_gradient(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    inputs = inputs.clone().requires_grad_()
    output: Tensor = model(inputs)
    return output.detach(), torch.autograd.grad(output.square().sum(), inputs)[0]


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet10t", 0),
        ("test_efficientnet", 0),  # normalisation and activation in one module
        ("test_byobnet", 0),
        ("resnetv2_18", 9),  # normalisation before the convolution: 9 of them follow a sum
        ("test_vit", 0),  # none at all
    ],
)
def test_output_and_gradient_stay(name: str, left: int) -> None:
    model = with_statistics(timm.create_model(name, num_classes=7))
    inputs = torch.randn(2, 3, 64, 64)
    expected, there = output_and_gradient(model, inputs), norms(model)
    assert fold_batch_norms(model, inputs[:1]) == there - left
    assert norms(model) == left
    found = output_and_gradient(model, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_without_scale_and_shift_and_with_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4, affine=False))
    with_statistics(model)
    inputs = torch.randn(2, 3, 8, 8)
    expected = model(inputs)
    assert fold_batch_norms(model, inputs) == 1
    torch.testing.assert_close(model(inputs), expected)
    assert isinstance(model[1], nn.Identity)


class Standardised(nn.Conv2d):
    """A convolution that standardises its weights: a factor on them is lost."""

    def forward(self, inputs: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(inputs, weight, self.bias)


class UsedTwice(nn.Module):
    """The output of a convolution goes past its normalisation too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        made = self.convolution(inputs)
        return torch.cat([made, self.norm(made)], 1)


class Repeated(nn.Module):
    """One convolution, called twice, before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, inputs: Tensor) -> Tensor:
        for norm in self.norms:
            inputs = norm(self.convolution(inputs))
        return inputs


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4)), UsedTwice, Repeated])
def test_what_cannot_be_folded_is_put_back(make: type[nn.Module]) -> None:
    model = with_statistics(make())
    inputs = torch.randn(2, 3, 8, 8)
    expected, there = model(inputs), norms(model)
    assert fold_batch_norms(model, inputs) == 0
    assert norms(model) == there
    assert torch.equal(model(inputs), expected)


def test_a_normalisation_of_the_batch_itself_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval().requires_grad_(False)
    assert fold_batch_norms(model, torch.randn(2, 3, 8, 8)) == 0
    assert isinstance(model[1], nn.BatchNorm2d)
