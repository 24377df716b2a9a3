r"""SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825), as the paper's authors run it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus.errors import InputError
from xconsensus.explainers.explanation import Explanation, Image
from xconsensus.explainers.lime import check_target
from xconsensus.explainers.masks import check_tolerance, even_batches, steps
from xconsensus.members.network import Network


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient of the class probability over ``samples`` noisy images.

    ``noise`` is the standard deviation as a fraction of max - min of the normalised image. 0 noise and 1 sample is
    the plain gradient. With a ``tolerance`` an image gets samples until the map's reliability reaches it: a quarter,
    half, all, double, then four times ``samples``.
    """

    samples: int = 50
    noise: float = 0.1
    tolerance: float | None = None
    target: str = "predicted"
    on_superpixels = False
    fewer_bits = ("float16",)  # bytes have no gradients; in bfloat16 maps differ by more than 1 % (docs/benchmarks.md)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"explainer.samples={self.samples}: SmoothGrad needs at least 1")
        if self.noise < 0:
            raise InputError(f"explainer.noise={self.noise} is negative")
        check_tolerance(self.tolerance)
        check_target(self.target)

    def passes(self) -> tuple[int, int]:
        return self.samples + 1, self.samples

    def __call__(self, network: Network, image: Image, batch_size: int) -> Explanation:
        """One value a pixel, (H, W): the signed mean over the noise, then absolute, then the sum over channels.

        Fields: ``reliability`` of the map (see `reliability`) and ``samples`` it took.
        """
        inputs = network.normalise(torch.from_numpy(image.pixels).to(network.device).permute(2, 0, 1))
        with torch.no_grad():
            probabilities = network.exactly(inputs[None]).softmax(1)[0]
        predicted = int(probabilities.argmax())
        target = predicted if self.target == "predicted" else image.label
        deviation = self.noise * (inputs.max() - inputs.min())
        # drawn where they are used: on a GPU a draw of the CPU would take longer than the gradient
        generator = torch.Generator(network.device).manual_seed(image.generator().initial_seed())
        # of the samples with even and with odd numbers, in the gradients' form
        sums = torch.zeros(2, *inputs.shape, dtype=torch.float64, device=network.device)
        sums = sums.contiguous(memory_format=torch.channels_last)
        done, agreement = 0, 0.0
        for count in steps(self.samples, self.tolerance):
            for numbers in even_batches(torch.arange(done, count), batch_size):
                # one draw a sample: the values of a larger draw would depend on the batch size
                noise = [torch.randn(inputs.shape, generator=generator, device=network.device) for _ in numbers]
                found = gradients(network, inputs + deviation * torch.stack(noise), target)
                for half in (0, 1):
                    sums[half] += found[(half - int(numbers[0])) % 2 :: 2].sum(0)
            done = count
            agreement = reliability(*(half.abs().sum(0) for half in sums))
            if self.tolerance is not None and agreement >= self.tolerance:
                break
        values = (sums.sum(0) / done).abs().sum(0)
        fields = {"reliability": agreement, "samples": float(done)}
        return Explanation(values.float().cpu(), predicted, float(probabilities[predicted]), fields)


def reliability(first: Tensor, second: Tensor) -> float:
    """The correlation to expect between a map and one of as many other samples, in -1..1, from the maps of its halves.

    The halves' correlation r, stepped up to the full length: 2 r / (1 + r) (Spearman 1910 and Brown 1910,
    doi:10.1111/j.2044-8295.1910.tb00206.x, .tb00207.x). 0 where a half is constant.
    """
    centred = [(half - half.mean()).flatten() for half in (first, second)]
    scale = centred[0].norm() * centred[1].norm()
    if scale == 0:
        return 0.0
    r = float((centred[0] @ centred[1]) / scale)
    return 2 * r / (1 + r) if r > -1 / 3 else -1.0


def gradients(network: Network, inputs: Tensor, target: int) -> Tensor:
    """Gradient of the softmax probability of class ``target`` by each normalised input, (n, 3, H, W) like them.

    Between logits and inputs each image's is scaled to a largest number of 1: that of a probability near 0 or 1 is too
    small for float16.
    """
    inputs = inputs.detach().contiguous(memory_format=torch.channels_last).requires_grad_()  # as the network reads them
    logits = network(inputs)
    probability = logits.softmax(1)[:, target]
    by_logits = torch.autograd.grad(probability.sum(), logits)[0]
    scale = by_logits.abs().amax(1, keepdim=True).clamp_min(torch.finfo(by_logits.dtype).tiny)
    by_inputs: Tensor = torch.autograd.grad(logits, inputs, by_logits / scale)[0]
    return by_inputs.mul_(scale[:, :, None, None])
