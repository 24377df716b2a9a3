"""A member's network on the device: what explainers and training call."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xconsensus.members.member import Member
from xconsensus.members.weights import build, content_of, fill_from
from xconsensus.resampling import OPENCVS


class Network(nn.Module):
    """A member ready to be explained: any image size in, logits out.

    ``normalise`` maps RGB uint8 or float in 0..255 (N, 3, H, W) to the member's normalised input of the same size;
    ``forward`` takes that, resizes it on the device when (H, W) is not the member's input size, and gives float32
    logits (N, classes). Resizing after normalising equals resizing before: both are affine.
    """

    def __init__(self, member: Member, model: nn.Module) -> None:
        super().__init__()
        self.member = member
        # channels last: up to twice as fast in convolutions, on CPU and GPU alike
        self.model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        set_trainable(model, False)
        self.register_buffer("mean", torch.tensor(member.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(member.std).view(3, 1, 1) * 255)

    @property
    def device(self) -> torch.device:
        """Where inputs are expected."""
        return self.get_buffer("mean").device

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (..., 3, H, W) in 0..255 as the member's normalised float32 input of the same shape."""
        return (images.float() - self.get_buffer("mean")) / self.get_buffer("std")

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes), float32, of normalised inputs (N, 3, H, W)."""
        return logits_of(self.model(self.resized(inputs))).float()

    def resized(self, inputs: Tensor) -> Tensor:
        """Normalised inputs (N, 3, H, W) in the member's input size, as the model takes them: channels last, and a
        copy, since some models change what they get.
        """
        size = self.member.input_size
        if inputs.shape[-2:] != (size, size):
            smooth = self.member.interpolation != OPENCVS
            mode = self.member.interpolation if smooth else "bilinear"
            inputs = F.interpolate(inputs.float(), (size, size), mode=mode, antialias=smooth, align_corners=False)
        return inputs.clone(memory_format=torch.channels_last)

    def label(self, image: Tensor) -> tuple[int, float]:
        """The predicted class of one normalised image (3, H, W), and its softmax probability."""
        with torch.no_grad():
            probabilities = self(image[None]).softmax(1)[0]
        predicted = int(probabilities.argmax())
        return predicted, float(probabilities[predicted])

    @torch.enable_grad()  # whatever own code has switched
    def gradients(self, inputs: Tensor, target: int) -> Tensor:
        """Gradient of the softmax probability of class ``target`` by each normalised input, (n, 3, H, W) like them.

        Between logits and inputs each image's is scaled to a largest number of 1: that of a probability near 0 or 1 is
        too small for float16.
        """
        # channels last, as the model reads them
        inputs = inputs.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        logits = self(inputs)
        probability = logits.softmax(1)[:, target]
        by_logits = torch.autograd.grad(probability.sum(), logits)[0]
        scale = by_logits.abs().amax(1, keepdim=True).clamp_min(torch.finfo(by_logits.dtype).tiny)
        by_inputs: Tensor = torch.autograd.grad(logits, inputs, by_logits / scale)[0]
        return by_inputs.mul_(scale[:, :, None, None])


def logits_of(output: object) -> Tensor:
    """The logits (N, classes) in what a model returns: a tensor, (N, classes, 1, 1) too, ``.logits``, ``["logits"]``,
    or the first of several outputs. Raises TypeError for anything else.
    """
    if isinstance(output, Tensor):
        return output.flatten(1) if output.ndim > 2 and output.shape[2:].numel() == 1 else output
    if (found := getattr(output, "logits", None)) is not None:
        return logits_of(found)
    if isinstance(output, Mapping) and "logits" in output:
        return logits_of(output["logits"])
    if isinstance(output, Sequence) and output and not isinstance(output, str):
        return logits_of(output[0])
    raise TypeError(f"it returns {type(output).__name__}, no logits")


def set_trainable(model: nn.Module, trainable: bool) -> None:
    """Have the model's weights require gradients or not; TorchScript has no ``requires_grad_``."""
    for parameter in model.parameters():
        parameter.requires_grad_(trainable)


def network_of(member: Member, classes: int, device: torch.device, new_head: bool = False) -> Network:
    """The member's network on the device, with its weights; where a file has other classes, with a ``new_head``, which
    is then to be trained.

    Raises InputError naming the member for weights that cannot be read or do not fit.
    """
    content = content_of(member) if member.weights else {}
    model = build(member, classes, new_head)
    if member.weights:
        fill_from(model, member, content, classes, new_head)
    return Network(member, model).to(device)
