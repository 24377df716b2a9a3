"""Training by the paper's recipe (section 4.1.2): SGD on random crops, one epoch at a time, from any epoch on."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from xconsensus.errors import InputError
from xconsensus.members.network import Network, set_trainable
from xconsensus.seeding import generator, seed_of
from xconsensus.threads import ahead

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters; keys/schema.py says which are the paper's. ``precision`` is one of `PRECISIONS`."""

    epochs: int
    learning_rate: float
    momentum: float
    batch_size: int
    weight_decay: float
    warmup_epochs: float
    clip_norm: float | None
    frozen_statistics: bool
    random_crop: bool
    flip: float
    precision: str
    prepare: bool = False
    probed_learning_rate: float = 0.001

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"finetune.precision={self.precision} is none of auto, {', '.join(PRECISIONS)}")

    def settings(self) -> dict[str, Any]:
        """What a header says of the recipe; options taken out since stand there with the value that changes nothing.

        Those added since stand there only where they shape weights. So weights trained before stay valid, unless an
        option that was taken out shaped them.
        """
        taken_out = {"schedule": "cosine", "label_smoothing": 0.0, "keep": "last", "validation": 0.1}
        added = () if self.prepare else ("prepare", "probed_learning_rate")
        return {**{key: value for key, value in vars(self).items() if key not in added}, **taken_out}

    def rate(self, epoch: float) -> float:
        """Learning rate at a moment in epochs since the start: a line up to the end of the warm-up, times a cosine."""
        warm = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        cosine = (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate * warm * cosine


@dataclass
class Images:
    """Training images: ``read`` gives image i as uint8 (H, W, 3), its short edge resized; ``labels`` its class."""

    read: Callable[[int], NDArray[np.uint8]]
    labels: Sequence[int]


@dataclass
class State:
    """Where a training stands after ``epoch`` epochs: weights, momentum, the history, of float16 the loss's scale."""

    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    momentum: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    scale: dict[str, float] = field(default_factory=dict)


def train(network: Network, images: Images, recipe: Recipe, seed: int, state: State | None = None) -> Iterator[State]:
    """Train a network and yield the state after each epoch.

    Parameters
    ----------
    network : is trained in place.
    images, recipe : on what, and how.
    seed : all draws of an epoch follow from (seed, member, epoch), so an interrupted training that goes on from a
        state ends with the same weights, those of the last epoch.
    state : the one to go on from; None = from the start.

    In float16 the loss is scaled, that small gradients do not vanish, and a step whose gradients overflow is left out.

    Raises InputError naming the member when the loss is not finite, or no scale keeps gradients within float16.
    """
    state = state or State()
    member, model = network.member.name, network.model
    set_trainable(model, True)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    scaler = torch.amp.GradScaler(network.device.type, enabled=recipe.precision == "float16")
    if state.epoch:
        model.load_state_dict(state.model)
        _set_momentum(model, optimizer, state.momentum)
        scaler.load_state_dict(state.scale)
    for epoch in range(state.epoch, recipe.epochs):
        torch.manual_seed(seed_of(seed, member, epoch, "dropout"))
        model.train()
        if recipe.frozen_statistics:
            _freeze_statistics(model)
        loss = _epoch(network, optimizer, scaler, images, recipe, epoch, generator(seed, member, epoch))
        model.eval()
        state.history.append({"epoch": float(epoch + 1), "loss": loss})
        state.epoch, state.model, state.momentum = epoch + 1, model.state_dict(), _momentum(model, optimizer)
        state.scale = scaler.state_dict()
        yield state
    model.eval()
    set_trainable(model, False)


def whole_pass(network: Network, images: Images, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The centre crop of each image, normalised (n, 3, size, size), and its label (n,), on the network's device."""
    for first in range(0, len(images.labels), batch_size):
        batch = range(first, min(first + batch_size, len(images.labels)))
        middle, none = torch.full((len(batch), 2), 0.5), torch.zeros(len(batch), dtype=torch.bool)
        inputs = crops(images, batch, network.member.input_size, middle, none).to(network.device)
        labels = torch.tensor([images.labels[index] for index in batch], device=network.device)
        yield network.resized(network.normalise(inputs)), labels


def _epoch(
    network: Network,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    images: Images,
    recipe: Recipe,
    epoch: int,
    draws: torch.Generator,
) -> float:
    """One pass over the images; the mean loss."""
    order = torch.randperm(len(images.labels), generator=draws).tolist()
    batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1 < recipe.batch_size:
        batches.pop()  # batch normalisation cannot train on a single image
    losses = []
    read = partial(_augmented, images, recipe, network.member.input_size, draws)
    for step, (inputs, labels) in enumerate(ahead(read, batches)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch + step / len(batches))
        with torch.autocast(network.device.type, PRECISIONS[recipe.precision], enabled=recipe.precision != "float32"):
            try:
                logits = network(network.normalise(inputs.to(network.device)))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InputError(
                    f"member {network.member.name}: its batch normalisation cannot train on {len(labels)} image at a"
                    f" time (finetune.batch_size={recipe.batch_size}, {len(images.labels)} training images): take 2 or"
                    " more, or finetune.frozen_statistics=true"
                ) from error
        loss = F.cross_entropy(logits, labels.to(network.device))
        if not loss.requires_grad:
            raise InputError(f"member {network.member.name}: no gradient reaches its weights, which cannot be trained")
        if not torch.isfinite(loss):
            other = ", or set finetune.precision=float32" if recipe.precision == "float16" else ""
            raise InputError(
                f"member {network.member.name}: loss is {loss.item()} in epoch {epoch + 1};"
                f" lower finetune.learning_rate or set finetune.warmup_epochs{other}"
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.model.parameters(), recipe.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        if scaler.is_enabled() and scaler.get_scale() < 1:
            raise InputError(
                f"member {network.member.name}: gradients exceed float16 in epoch {epoch + 1};"
                " set finetune.precision=float32"
            )
        losses.append(loss.item() * len(labels))
    return sum(losses) / sum(map(len, batches))


def _augmented(
    images: Images, recipe: Recipe, size: int, draws: torch.Generator, batch: list[int]
) -> tuple[Tensor, Tensor]:
    """Random crops (n, 3, size, size) of some images, some of them mirrored, and their labels (n,)."""
    place, flips = torch.rand(len(batch), 2, generator=draws), torch.rand(len(batch), generator=draws)
    place = place if recipe.random_crop else torch.full_like(place, 0.5)
    labels = torch.tensor([images.labels[index] for index in batch])
    return crops(images, batch, size, place, flips < recipe.flip), labels


def _freeze_statistics(model: torch.nn.Module) -> None:
    """Batch normalisation keeps its running statistics, as in eval mode; its scale and shift go on learning."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def crops(images: Images, batch: Sequence[int], size: int, place: Tensor, flips: Tensor) -> Tensor:
    """Crops (n, 3, size, size), uint8.

    Parameters
    ----------
    images, batch : of which images, the n positions in ``batch``.
    size : edge of a crop in pixels.
    place : (n, 2) in [0, 1), where in the room above and left of the crop it lies; 0.5 is the centre.
    flips : (n,), bool, which crops are mirrored.
    """
    cut = []
    for index, (down, right), flip in zip(batch, place.tolist(), flips.tolist(), strict=True):
        pixels = images.read(index)
        top = int(down * (pixels.shape[0] - size + 1))
        left = int(right * (pixels.shape[1] - size + 1))
        crop = pixels[top : top + size, left : left + size]
        cut.append(np.ascontiguousarray(crop[:, ::-1] if flip else crop))
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


def _momentum(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }


def _set_momentum(model: torch.nn.Module, optimizer: torch.optim.Optimizer, momentum: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = momentum[name].to(parameter.device).clone()
