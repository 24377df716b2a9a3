"""What work would take, from a few passes, before anything is spent."""

import time
from typing import Literal

import torch

from xconsensus.committee import Network

_IMAGES = 8


def seconds_a_pass(network: Network, size: int, gradients: Literal["inputs", "weights"] | None = None) -> float:
    """Seconds that a network takes on its device for one image of ``size`` pixels a side, forward or, if it is asked
    for ``gradients``, forward and backward. The network's weights may require gradients afterwards.
    """
    inputs = torch.zeros(_IMAGES, 3, size, size, device=network.device, requires_grad=gradients == "inputs")
    leaves = [inputs]
    if gradients == "weights":
        leaves = list(network.model.requires_grad_(True).parameters())
    with torch.set_grad_enabled(gradients is not None):
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            out = network(inputs).softmax(1)[:, 0].sum()
            if gradients:
                torch.autograd.grad(out, leaves, allow_unused=True)
            float(out.detach())
    return (time.perf_counter() - started) / _IMAGES
