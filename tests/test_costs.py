from pathlib import Path

import pytest
import torch

from xconsensus.members.costs import operations_a_pass
from xconsensus.members.member import Member
from xconsensus.members.weights import build

RESNET = Member("resnet", "ResNet", "timm", "resnet18", 64, 73)
REAL = """\
import torch


class Real(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, num_classes))

    def forward(self, inputs):
        means = inputs.mean((2, 3))
        return means @ self.weight if means.sum() < 1 else means
"""


def multiply_adds(member: Member, side: int) -> int:
    """Of convolutions and linear layers, counted by hooks on a network that really runs."""
    model, counted = build(member, 10), []

    def hook(layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        counted.append(out.numel() * weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(hook)
    model(torch.zeros(1, 3, side, side))
    return sum(counted)


@pytest.mark.parametrize("side", [64, 96])
def test_the_cost_of_a_member_is_its_operations_at_its_own_size(side: int) -> None:
    member = Member("resnet", "ResNet", "timm", "resnet18", side, side)
    assert operations_a_pass(member, 10) == 2 * multiply_adds(member, side)


def test_counting_operations_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    operations_a_pass(RESNET, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_that_needs_real_tensors_is_counted_too(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(REAL)
    member = Member("own", "Own", "module", f"{tmp_path}/own.py:Real", 32, 40)
    with torch.device("meta"), pytest.raises(RuntimeError):
        build(member, 2)(torch.zeros(1, 3, 32, 32))
    assert operations_a_pass(member, 2) == 2 * 3 * 2
