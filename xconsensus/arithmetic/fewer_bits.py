"""A network in fewer bits, for one image at a time: fitted to the image, and compared with float32 on it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xconsensus.arithmetic.int8 import Int8
from xconsensus.errors import InputError
from xconsensus.members.network import Network
from xconsensus.members.weights import head_tensors

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FITTED = 2  # inputs of an image that bytes are fitted to; more of them gain nothing (docs/benchmarks.md)
CHECKED = 4  # further ones of which fewer bits are compared with float32


@dataclass(frozen=True)
class FewerBits:
    """A network, and the same with convolutions, or matrix products too, ``rounded`` to ``precision``."""

    network: Network
    rounded: Network
    precision: str


class In16Bits(nn.Module):
    """A model whose convolutions and matrix products compute in 16 bits."""

    def __init__(self, model: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, self.kind):
            found: Tensor = self.model(inputs)
            return found


def in_precision(network: Network, precision: str, classes: int) -> Network | FewerBits:
    """The network, itself in float32, else with itself in bfloat16, float16, or int8 (see `Int8`).

    The head, from whose logits the softmax follows, stays in float32. Raises InputError, naming the member, where it
    cannot compute in 8 bits.
    """
    if precision == "float32":
        return network
    if type(network.model).__module__.startswith("torch.jit."):  # whose head cannot stay in float32
        raise InputError(f"explain.precision={precision}: member {network.member.name} is TorchScript; set float32")
    model = _in_8_bits(network) if precision == "int8" else _in_16_bits(network, HALVES[precision], classes)
    return FewerBits(network, Network(network.member, model).to(network.device), precision)


def _in_16_bits(network: Network, kind: torch.dtype, classes: int) -> nn.Module:
    modules = dict(network.model.named_modules())
    for name in {key.rpartition(".")[0] for key in head_tensors(network.member, classes)}:
        if name:  # a head of a model that is one single layer is the model
            _keep_in_float32(modules[name])
    return In16Bits(network.model, kind)


def _keep_in_float32(head: nn.Module) -> None:
    forward = head.forward

    def in_float32(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, enabled=False):
            result: Tensor = forward(inputs.float())
            return result

    head.forward = in_float32


def _in_8_bits(network: Network) -> nn.Module:
    try:
        return Int8(network.model, noise(network))
    except Exception as error:  # following the code of any model can raise nearly anything
        reason, name = (str(error).splitlines() or [type(error).__name__])[0], network.member.name
        raise InputError(f"explain.precision=int8: member {name} cannot compute in 8 bits ({reason})") from error


def noise(network: Network) -> Tensor:
    """Inputs (4, 3, H, W), float32, of the member's size, that say nothing, to try a network on."""
    size = network.member.input_size
    values = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    return values.to(network.device).contiguous(memory_format=torch.channels_last)


def for_image(network: Network | FewerBits) -> "Network | ForImage":
    """What explains one image: the network itself in float32, else a `ForImage` of its own."""
    return ForImage(network) if isinstance(network, FewerBits) else network


class ForImage:
    """A network in fewer bits for one image, called and asked as the network itself.

    What bytes stand for is fitted to the first inputs that it is called with, however many a call, and these are
    answered in float32; of the next the outputs are compared with those in float32. Labels are those of float32.
    """

    def __init__(self, network: FewerBits) -> None:
        self._exact, self._rounded = network.network, network.rounded
        self.device, self.normalise, self.label = self._exact.device, self._exact.normalise, self._exact.label
        self.gradients = self._rounded.gradients
        self._first: list[Tensor] = []
        self._probabilities: list[Tensor] = []
        self._errors: list[Tensor] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes), float32, of normalised inputs (N, 3, H, W)."""
        done = sum(map(len, self._probabilities))
        first, checked = (max(0, count - done) for count in (FITTED, FITTED + CHECKED))
        answers = ((self._fit, inputs[:first]), (self._rounded, inputs[first:]))
        logits = torch.cat([answer(part) for answer, part in answers if len(part)])
        with torch.no_grad():
            probabilities = logits.softmax(1)
            if len(inputs[first:checked]):
                exact = self._exact(inputs[first:checked]).softmax(1)
                self._errors.append(probabilities[first:checked].double() - exact)
            self._probabilities.append(probabilities)
        return logits

    def share_of_error(self, target: int) -> float:
        """The share of fewer bits in the variance of class ``target``'s probability over all inputs: the mean square
        of what they change in those that were compared, by that variance; 0 before any was.
        """
        if not self._errors:
            return 0.0
        square = torch.cat(self._errors)[:, target].square().mean()
        outputs = torch.cat([part[:, target] for part in self._probabilities]).double()
        return float(square / outputs.var()) if square > 0 else 0.0

    def _fit(self, inputs: Tensor) -> Tensor:
        """Logits of some of the first inputs: of bytes, which are fitted to all of these so far, in float32."""
        model = self._rounded.model
        if not isinstance(model, Int8):  # 16 bits stand for the same numbers in every image
            return self._rounded(inputs)  # type: ignore[no-any-return]
        self._first.append(self._exact.resized(inputs))
        with torch.inference_mode():
            return model.calibrate(torch.cat(self._first))[-len(inputs) :].float()
