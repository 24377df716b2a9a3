"""A member's network on the device: what explainers and training call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xconsensus.arithmetic.folding import fold_batch_norms
from xconsensus.arithmetic.int8 import Int8
from xconsensus.members.member import Member
from xconsensus.members.weights import build, fill, head_tensors, read_weights


class Network(nn.Module):
    """A member ready to be explained: any image size in, logits out.

    ``normalise`` maps RGB uint8 or float in 0..255 (N, 3, H, W) to the member's normalised input of the same size;
    ``forward`` takes that, resizes it on the device when (H, W) is not the member's input size, and gives float32
    logits (N, classes). Resizing after normalising equals resizing before: both are affine. ``dtype`` is what
    convolutions and matrix products compute in (`precision.set_precision`); ``faster`` stands in for the model where
    it is set: the model compiled, or in 8 bits.
    """

    faster: Callable[[Tensor], Tensor] | None

    def __init__(self, member: Member, model: nn.Module) -> None:
        super().__init__()
        self.member = member
        # channels last: up to twice as fast in convolutions, on CPU and GPU alike
        self.model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = torch.float32
        self.faster = None
        self.register_buffer("mean", torch.tensor(member.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(member.std).view(3, 1, 1) * 255)

    @property
    def device(self) -> torch.device:
        """Where inputs are expected."""
        return self.get_buffer("mean").device

    def fuse(self) -> None:
        """Fold batch normalisation into convolutions: the same function, faster, and not to be trained any more."""
        size = self.member.input_size
        noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        fold_batch_norms(self.model, noise.to(self.device))

    def normalise(self, images: Tensor) -> Tensor:
        """RGB (..., 3, H, W) in 0..255 as the member's normalised float32 input of the same shape."""
        return (images.float() - self.get_buffer("mean")) / self.get_buffer("std")

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, classes), float32, of normalised inputs (N, 3, H, W), float32 or ``dtype``."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return (self.faster or self.model)(self._resized(inputs)).float()

    def _resized(self, inputs: Tensor) -> Tensor:
        size = self.member.input_size
        if inputs.shape[-2:] != (size, size):
            mode = self.member.interpolation
            inputs = F.interpolate(inputs.float(), (size, size), mode=mode, antialias=True, align_corners=False)
        return inputs.contiguous(memory_format=torch.channels_last)

    def calibrate(self, inputs: Tensor) -> None:
        """Prepare for inputs like these, (n, 3, H, W), normalised: of use to a network in 8 bits alone."""
        if isinstance(self.faster, Int8):
            with torch.inference_mode():
                self.faster.calibrate(self._resized(inputs))

    @property
    def is_exact(self) -> bool:
        """Whether it computes in float32."""
        return self.dtype == torch.float32 and not isinstance(self.faster, Int8)

    @contextmanager
    def computing(
        self, dtype: torch.dtype = torch.float32, faster: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[None]:
        """Compute so for a while, by itself in float32 and not compiled."""
        before = self.dtype, self.faster
        self.dtype, self.faster = dtype, faster
        try:
            yield
        finally:
            self.dtype, self.faster = before

    def exactly(self, inputs: Tensor) -> Tensor:
        """Logits of float32 inputs in float32 and not compiled: a label is not to depend on speed."""
        with self.computing():
            logits: Tensor = self(inputs)
            return logits


def network_of(member: Member, classes: int, device: torch.device, new_head: bool = False) -> Network:
    """The member's network on the device, with its weights; where a file has other classes, with a ``new_head``, which
    is then to be trained.

    Raises InputError naming the member for weights that cannot be read or do not fit.
    """
    model = build(member, classes)
    if member.weights:
        head = head_tensors(member, classes) if new_head else ()
        fill(model, member, read_weights(Path(member.weights), member.name), member.weights, head)
    return Network(member, model).to(device)
