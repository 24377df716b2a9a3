import copy
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xconsensus.errors import InputError
from xconsensus.members.member import Member
from xconsensus.members.network import Network
from xconsensus.members.training import Images, Recipe, State, crops, train

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, CROP, CLASSES, COUNT = 11, 8, 3, 22
RECIPE = Recipe(
    epochs=4,
    learning_rate=0.05,
    momentum=0.9,
    batch_size=5,
    weight_decay=1e-3,
    warmup_epochs=1.5,
    clip_norm=None,
    frozen_statistics=False,
    random_crop=True,
    flip=0.5,
    precision="float32",
)
PLAIN = replace(RECIPE, random_crop=False, flip=0.0, batch_size=COUNT, warmup_epochs=0.0)


def images_of(seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, COUNT)
    # a colour a class, and noise enough that an epoch does not learn it all
    colours = rng.integers(60, 190, (CLASSES, 1, 1, 3))[labels]
    pixels = np.clip(colours + rng.normal(0, 70, (COUNT, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    return Images(lambda index: pixels[index], labels.tolist())


def network_of(model: nn.Module, size: int = CROP) -> Network:
    return Network(Member("a", "A", "module", "here.Model", size, SIZE), model)


def small(seed: int = 0) -> Network:
    """With batch statistics and dropout: both must survive an interruption."""
    torch.manual_seed(seed)
    body = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3)
    return network_of(nn.Sequential(*body, nn.Linear(24, CLASSES)))


def through_a_file(state: State) -> State:
    file = io.BytesIO()
    torch.save(vars(state), file)
    file.seek(0)
    return State(**torch.load(file, weights_only=True))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    tensors = other.state_dict()
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, tensors[key]), key


@pytest.mark.parametrize(("momentum", "precision"), [(0.9, "float32"), (0.0, "float32"), (0.9, "float16")])
def test_an_interrupted_training_ends_with_the_same_weights_to_the_bit(momentum: float, precision: str) -> None:
    recipe, images, network = replace(RECIPE, momentum=momentum, precision=precision), images_of(), small()
    states = [through_a_file(state) for state in train(network, images, recipe, seed=3)]
    assert [state.epoch for state in states] == [1, 2, 3, 4]
    for state in states:
        continued = small(seed=99)
        torch.manual_seed(1234)
        assert state.epoch + sum(1 for _ in train(continued, images, recipe, 3, state)) == 4
        assert_same(continued, network)
        assert state.history == states[-1].history


def test_a_training_depends_on_its_seed_and_member() -> None:
    def trained(seed: int, name: str) -> Tensor:
        network = small()
        network.member = replace(network.member, name=name)
        list(train(network, images_of(), replace(RECIPE, epochs=1), seed))
        weights: Tensor = network.model.state_dict()["0.weight"]
        return weights

    first = trained(0, "a")
    assert torch.equal(trained(0, "a"), first)
    assert not torch.equal(trained(1, "a"), first)
    assert not torch.equal(trained(0, "b"), first)


def test_training_is_stochastic_gradient_descent_written_out() -> None:
    recipe = replace(PLAIN, epochs=5)
    images = images_of()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP**2, CLASSES))
    network = network_of(model)
    weight, bias = (tensor.detach().double().clone() for tensor in model.parameters())
    batch = crops(images, range(COUNT), CROP, torch.full((COUNT, 2), 0.5), torch.zeros(COUNT, dtype=torch.bool))
    x = network.normalise(batch).flatten(1).double()
    wanted = nn.functional.one_hot(torch.tensor(images.labels)).double()
    velocity, losses = [torch.zeros_like(weight), torch.zeros_like(bias)], []
    for epoch in range(5):
        rate = 0.05 * (1 + math.cos(math.pi * epoch / 5)) / 2
        logits = x @ weight.T + bias
        losses.append(float(-(wanted * logits.log_softmax(1)).sum(1).mean()))
        error = (logits.softmax(1) - wanted) / COUNT
        for i, (value, gradient) in enumerate([(weight, error.T @ x), (bias, error.sum(0))]):
            velocity[i] = 0.9 * velocity[i] + gradient + 1e-3 * value
            value -= rate * velocity[i]
    history = [copy.deepcopy(state.history) for state in train(network, images, recipe, seed=0)][-1]
    assert [entry["loss"] for entry in history] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(model[1].weight.double(), weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model[1].bias.double(), bias, rtol=1e-3, atol=1e-5)


def test_learning_rate_warms_up_in_a_line_and_falls_as_a_cosine() -> None:
    recipe = replace(RECIPE, epochs=10, learning_rate=0.4, warmup_epochs=2.0)
    for epoch in np.linspace(0, 10, 41):
        expected = 0.4 * min(1, epoch / 2) * math.cos(math.pi * epoch / 20) ** 2
        assert recipe.rate(epoch) == pytest.approx(expected)
        falling = 0.4 * math.cos(math.pi * epoch / 20) ** 2
        assert replace(recipe, warmup_epochs=0).rate(epoch) == pytest.approx(falling)


def test_the_rate_follows_the_step_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noted(self: torch.optim.SGD, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    recipe = replace(RECIPE, epochs=2, batch_size=11)
    list(train(small(), images_of(), recipe, seed=0))
    assert rates == pytest.approx([recipe.rate(moment) for moment in (0, 0.5, 1, 1.5)])


def test_an_epoch_trains_on_every_image_once() -> None:
    images, seen = images_of(), list[int]()

    def read(index: int) -> NDArray[np.uint8]:
        seen.append(index)
        return images.read(index)

    list(train(small(), Images(read, images.labels), replace(RECIPE, epochs=1), seed=5))
    assert sorted(seen) == list(range(COUNT))


def test_a_trained_network_is_frozen_and_in_evaluation_mode() -> None:
    network = small()
    before = network.model.state_dict()["0.weight"].clone()
    list(train(network, images_of(), replace(RECIPE, epochs=1), seed=0))
    assert not torch.equal(network.model.state_dict()["0.weight"], before)
    assert not network.model.training
    assert not any(parameter.requires_grad for parameter in network.model.parameters())


def test_a_last_batch_of_one_image_is_left_out() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, CLASSES))
    batches = []
    model.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    list(train(network_of(model), images_of(), replace(RECIPE, epochs=1, batch_size=7), seed=0))
    assert batches == [7, 7, 7]


def test_auxiliary_heads_of_a_network_in_training_do_not_count() -> None:
    class Auxiliary(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor) -> Any:
            return (self.model(inputs), torch.zeros(())) if self.training else self.model(inputs)

    plain, with_heads = small(), network_of(Auxiliary(small().model))
    for network in (plain, with_heads):
        list(train(network, images_of(), replace(RECIPE, epochs=1), seed=0))
    assert_same(plain.model, with_heads.model.model)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_train_float32_weights_near_those_of_float32(precision: str) -> None:
    full, half = small(), small()
    start = copy.deepcopy(full.model.state_dict())
    list(train(full, images_of(), replace(RECIPE, epochs=1), seed=0))
    list(train(half, images_of(), replace(RECIPE, epochs=1, precision=precision), seed=0))
    for (key, one), other in zip(full.model.named_parameters(), half.model.parameters(), strict=True):
        assert other.dtype == torch.float32
        if key == "0.bias":
            continue  # batch normalisation takes it away: its gradient is rounding alone
        moved = torch.linalg.vector_norm(one - start[key])
        assert 0 < torch.linalg.vector_norm(one - other) < 0.2 * moved


class Faint(nn.Module):
    """A layer whose weights have gradients of about ``by`` times the loss's by its logits."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.linear, self.by = nn.Linear(3 * CROP**2, CLASSES), by

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.linear(inputs.flatten(1)) * self.by
        return logits


def test_in_float16_gradients_too_small_for_it_still_train() -> None:
    network = network_of(Faint(2.0**-22))  # of which float16 has steps of 2**-24
    start, exact = copy.deepcopy(network.model.state_dict()), network_of(copy.deepcopy(network.model))
    recipe = replace(PLAIN, epochs=1, learning_rate=1e4, weight_decay=0.0)
    list(train(network, images_of(), replace(recipe, precision="float16"), seed=0))
    list(train(exact, images_of(), recipe, seed=0))
    for key, one in exact.model.state_dict().items():
        moved = torch.linalg.vector_norm(one - start[key])
        assert torch.linalg.vector_norm(network.model.state_dict()[key] - one) < 0.02 * moved


def test_a_step_whose_scaled_gradients_overflow_is_left_out_and_the_scale_halved() -> None:
    network = network_of(Faint(300.0))
    start = copy.deepcopy(network.model.state_dict())
    (state,) = train(network, images_of(), replace(PLAIN, epochs=1, precision="float16"), seed=0)
    for key, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, start[key])
    assert state.scale["scale"] == 2.0**15


def test_gradients_that_no_scale_brings_into_float16_name_the_member() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, logits: Tensor) -> Tensor:
            return logits.clone()

        @staticmethod
        def backward(_: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * torch.inf

    class Endless(Faint):
        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = Steep.apply(super().forward(inputs))  # type: ignore[no-untyped-call]
            return found

    recipe = replace(PLAIN, epochs=40, precision="float16")
    with pytest.raises(
        InputError, match=r"member a: gradients exceed float16 in epoch 17; set finetune\.precision=float32"
    ):
        list(train(network_of(Endless(1.0)), images_of(), recipe, seed=0))


@pytest.mark.parametrize("broken", ["weights", "rate"])
def test_a_loss_that_is_not_finite_names_the_member(broken: str) -> None:
    network, recipe = small(), PLAIN
    if broken == "weights":
        network.model.get_parameter("0.weight").data[0] = torch.nan
    else:
        network = network_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP**2, CLASSES)))
        recipe = replace(recipe, learning_rate=1e38)
    with pytest.raises(InputError, match=r"member a: loss is (nan|inf) in epoch \d; lower finetune\.learning_rate"):
        list(train(network, images_of(), recipe, seed=0))


# --- crops ---


def numbered(heights: list[int], widths: list[int]) -> Images:
    """Images whose pixels tell their own (image, row, column)."""

    def read(index: int) -> NDArray[np.uint8]:
        rows, columns = np.mgrid[: heights[index], : widths[index]]
        return np.stack([np.full_like(rows, index), rows, columns], -1).astype(np.uint8)

    return Images(read, [0] * len(heights))


def test_crops_are_windows_and_every_window_can_come() -> None:
    images, found = numbered([8, 10, 8], [11, 8, 8]), set()
    place = torch.rand(600, 2, generator=torch.Generator().manual_seed(0))
    batch = [index % 3 for index in range(600)]
    cut = crops(images, batch, 8, place, torch.zeros(600, dtype=torch.bool))
    assert cut.shape == (600, 3, 8, 8)
    assert cut.dtype == torch.uint8
    for index, crop in zip(batch, cut, strict=True):
        top, left = int(crop[1, 0, 0]), int(crop[2, 0, 0])
        window = images.read(index)[top : top + 8, left : left + 8]
        assert np.array_equal(crop.permute(1, 2, 0), window)
        found.add((index, top, left))
    assert found == {(0, 0, left) for left in range(4)} | {(1, top, 0) for top in range(3)} | {(2, 0, 0)}


@pytest.mark.parametrize("room", range(6))
def test_place_goes_from_edge_to_edge_through_the_centre(room: int) -> None:
    def left(place: float) -> int:
        cut = crops(numbered([8], [8 + room]), [0], 8, torch.tensor([[0.0, place]]), torch.tensor([False]))
        return int(cut[0, 2, 0, 0])

    assert left(0.0) == 0
    assert left(1 - 1e-6) == room
    assert abs(left(0.5) - room / 2) <= 0.5


def test_flips_mirror_left_and_right() -> None:
    images, place = numbered([10] * 4, [12] * 4), torch.full((4, 2), 0.7)
    flips = torch.tensor([True, False, True, False])
    upright = crops(images, range(4), 8, place, torch.zeros(4, dtype=torch.bool))
    mirrored = crops(images, range(4), 8, place, flips)
    assert not torch.equal(upright[0], upright[0].flip(-1))
    assert torch.equal(mirrored[flips], upright[flips].flip(-1))
    assert torch.equal(mirrored[~flips], upright[~flips])


@pytest.mark.parametrize(("flip", "random_crop", "kinds"), [(0.0, False, 1), (1.0, False, 1), (0.5, False, 2)])
def test_the_recipe_says_how_images_are_shown(flip: float, random_crop: bool, kinds: int) -> None:
    images, shown = numbered([8] * COUNT, [SIZE] * COUNT), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP**2, CLASSES))
    network = network_of(model)
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    recipe = replace(RECIPE, flip=flip, random_crop=random_crop, epochs=2, learning_rate=1e-6)
    list(train(network, images, recipe, seed=0))
    columns = torch.cat(shown)[:, 2, 0]
    mirrored = columns[:, 0] > columns[:, -1]
    assert len(torch.unique(columns, dim=0)) == kinds
    assert mirrored.double().mean() == pytest.approx(flip, abs=0.35)
    assert mirrored.any() == (flip > 0)


def test_random_crops_differ_between_epochs() -> None:
    images, shown = numbered([8] * COUNT, [40] * COUNT), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * CROP**2, CLASSES))
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    recipe = replace(PLAIN, random_crop=True, epochs=2, learning_rate=1e-6)
    list(train(network_of(model), images, recipe, seed=0))
    first, second = (inputs[inputs[:, 0, 0, 0].argsort()][:, 2, 0, 0] for inputs in shown)
    assert len(first.unique()) > COUNT / 3
    assert not torch.equal(first, second)


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="finetune.*precision"):
        replace(RECIPE, precision="int8")
