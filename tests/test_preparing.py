"""Networks made ready for training: the same function before the first step, and batch normalisation that works."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from xconsensus.arithmetic.folding import fold_batch_norms
from xconsensus.errors import InputError
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.members.preparing import OWN, PROBE, PUT_BACK, Preparation, linear_probe

CLASSES = 5


def member(folded: bool = False) -> Member:
    return Member("m", "f", "module", "x.py:X", input_size=16, resize=16, folded=folded)


class Small(nn.Module):
    """Convolutions with batch normalisation, a residual connection and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8))
        self.classifier = nn.Linear(8, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return F.relu(y + self.deep(y)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


HEAD = ("classifier.weight", "classifier.bias")


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def trained() -> Small:
    """One whose batch normalisation does something."""
    torch.manual_seed(0)
    model = Small()
    for norm in norms(model):
        nn.init.uniform_(norm.get_buffer("running_mean"), -1, 1)
        nn.init.uniform_(norm.get_buffer("running_var"), 0.2, 3)
        nn.init.uniform_(norm.weight, 0.3, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return model.eval()


def identity() -> Small:
    """As files of quantised networks have it: scale and shift are there, statistics are not."""
    model = trained()
    for norm in norms(model):
        nn.init.zeros_(norm.get_buffer("running_mean"))
        nn.init.constant_(norm.get_buffer("running_var"), 1 - norm.eps)
    return model


def folded() -> Small:
    model = trained()
    assert fold_batch_norms(model, torch.rand(2, 3, 16, 16)) == 2
    return model


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    for size in (7, 8, 1):
        labels = torch.randint(0, CLASSES, (size,), generator=draws)
        yield torch.randn(size, 3, 16, 16, generator=draws) + labels[:, None, None, None], labels


@pytest.mark.parametrize(("make", "is_folded"), [(identity, False), (folded, True)])
def test_features_stay_as_they_are_and_the_head_is_zero(make: Callable[[], Small], is_folded: bool) -> None:
    network = Network(member(is_folded), model := make())
    inputs = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        before = model.features(inputs)
        prepared = Preparation(network, HEAD)
        prepared.fit(batches)
        assert prepared.way == PUT_BACK
        torch.testing.assert_close(model.features(inputs), before, rtol=1e-5, atol=1e-5)
        assert not model(inputs).any()


@pytest.mark.parametrize(("make", "is_folded"), [(identity, False), (folded, True)])
def test_statistics_are_those_of_what_reaches_each_layer(make: Callable[[], Small], is_folded: bool) -> None:
    """In training mode, a batch of all the images is normalised as in evaluation."""
    network = Network(member(is_folded), model := make())
    Preparation(network, HEAD).fit(batches)
    inputs = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        inferred = model.features(inputs)
        torch.testing.assert_close(model.train().features(inputs), inferred, rtol=1e-4, atol=1e-4)


def test_what_was_put_in_is_folded_back_into_the_tensors_of_the_architecture() -> None:
    model = folded()
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    network = Network(member(folded=True), model)
    prepared = Preparation(network, HEAD)
    prepared.fit(batches)
    for norm in norms(model):
        nn.init.uniform_(norm.weight, 0.3, 2)  # as training changes it
    inputs = torch.cat([x for x, _ in batches()])
    with torch.no_grad():
        before = model.features(inputs)
        prepared.fold()
        torch.testing.assert_close(model.features(inputs), before, rtol=1e-5, atol=1e-5)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == names


def test_own_batch_normalisation_is_left_alone() -> None:
    network, other = Network(member(), trained()), trained()
    prepared = Preparation(network, HEAD)
    prepared.fit(batches)
    assert prepared.way == OWN
    for name, tensor in other.state_dict().items():
        found = network.model.state_dict()[name]
        assert not found.any() if name in HEAD else torch.equal(found, tensor)


class Rectified(nn.Module):
    """As SqueezeNet: no batch normalisation, a head of convolution behind which a rectifier stands."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.head(F.relu(self.stem(x)))).mean((2, 3))


def test_a_network_without_any_begins_with_the_linear_probe_of_its_pooled_features() -> None:
    torch.manual_seed(0)
    network = Network(member(), model := Rectified())
    prepared = Preparation(network, ("head.weight", "head.bias"))
    prepared.fit(batches)
    inputs, labels = (torch.cat(each) for each in zip(*batches(), strict=True))
    pooled = F.relu(model.stem(inputs)).mean((2, 3)).detach()
    weight, bias = linear_probe(pooled, labels, CLASSES)
    expected = (pooled @ weight.T + bias).softmax(1)
    assert prepared.way == PROBE
    torch.testing.assert_close(network(inputs).softmax(1), expected, rtol=1e-3, atol=1e-4)


def test_features_that_no_probe_can_be_fitted_to_are_told() -> None:
    model = Rectified()
    with torch.no_grad():
        model.stem.weight.mul_(1e20)
    with pytest.raises(InputError, match=r"member m: .* given up to \d\.\de\+\d\d, .*finetune.prepare=false"):
        Preparation(Network(member(), model), ("head.weight", "head.bias")).fit(batches)


def test_the_probe_is_scikit_learn_s_logistic_regression() -> None:
    draws = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = draws.normal(size=(60, 4)) + labels[:, None] * [1, 0, -1, 0.5]
    scaled = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1 / (2 * 0.01 * 60), max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    weight, bias = linear_probe(torch.tensor(features).float(), torch.tensor(labels), 3)
    ours = (torch.tensor(features).float() @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_network_that_cannot_be_folded_is_named() -> None:
    with pytest.raises(InputError, match="member m: folded=true, and no convolution"):
        Preparation(Network(member(folded=True), trained()), HEAD)
