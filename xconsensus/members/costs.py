"""What work would take, from a few passes, before anything is spent."""

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from xconsensus.members.member import Member
from xconsensus.members.network import Network, set_trainable
from xconsensus.members.weights import build

_PIXELS = 2**20  # of a timed batch at most: about what fits a core's cache, and never long on a CPU
_SECONDS = 1.0  # that a timed batch takes at most, and that batches are repeated for


def seconds_a_pass(
    network: Network, size: int, gradients: Literal["inputs", "weights"] | None = None, batch_size: int = 64
) -> float:
    """Seconds that a network takes on its device for one image of ``size`` pixels a side, forward or, if it is asked
    for ``gradients``, forward and backward, in batches as work has them. The network's weights may require gradients
    afterwards.

    The least of some passes, since other work on the machine only adds to it.
    """
    leaves = list(network.model.parameters())
    if gradients == "weights":
        set_trainable(network.model, True)

    def seconds(images: int) -> float:
        """The time of one pass of some images."""
        inputs = torch.zeros(images, 3, size, size, device=network.device, requires_grad=gradients == "inputs")
        started = time.perf_counter()
        out = network(inputs).softmax(1)[:, 0].sum()
        if gradients:
            torch.autograd.grad(out, [inputs] if gradients == "inputs" else leaves, allow_unused=True)
        float(out.detach())
        return time.perf_counter() - started

    with torch.set_grad_enabled(gradients is not None):
        one = [seconds(1) for _ in range(2)][-1]  # the first pass warms up
        images = max(1, min(batch_size, _PIXELS // size**2, int(_SECONDS / one)))
        times = [seconds(images)]
        while len(times) < 5 and sum(times) < _SECONDS:
            times.append(seconds(images))
    return min(times) / images


def operations_a_pass(member: Member, classes: int) -> int:
    """Floating-point operations of the member's forward pass on one image: products and convolutions, by shape.

    The same on every machine. Nothing is computed or downloaded, except that a member's own module that needs real
    tensors is given some. At least 1; 1 for a member that cannot be built or run: whoever works on it will say why.
    """
    architecture = replace(member, weights=None, pretrained=False)
    for device in (torch.device("meta"), nullcontext()):
        try:
            with device, torch.random.fork_rng(devices=[]), torch.inference_mode():
                model = build(architecture, classes)
                with FlopCounterMode(display=False) as counted:
                    model(torch.zeros(1, 3, member.input_size, member.input_size))
                return max(1, int(counted.get_total_flops()))
        except Exception:  # the user's code raises anything
            continue
    return 1


def rehearsal(member: Member) -> Member:
    """The member as a dry run builds it, which downloads nothing: with random weights for those to be fetched."""
    fetched = member.pretrained and not member.pretrained_file
    return replace(member, pretrained=False) if fetched else member
