r"""SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825), as the paper's authors run it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus.errors import InputError
from xconsensus.explainers.explanation import Classifier, Explanation, Image
from xconsensus.explainers.lime import check_target
from xconsensus.explainers.masks import check_tolerance, even_batches, sample_counts


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

    def __call__(self, network: Classifier, image: Image, batch_size: int) -> Explanation:
        """One value a pixel, (H, W), float32, of class c's probability p_c on the normalised image x:

        M(x) = sum over channels of |1/n sum_i d p_c(x + e_i) / dx|,  e_i ~ N(0, s^2),  s = noise (max x - min x)

        Fields: ``reliability`` of the map (see `halves_reliability`) and ``samples`` it took.
        """
        inputs = network.normalise(torch.tensor(image.pixels).to(network.device).permute(2, 0, 1))
        predicted, probability = network.label(inputs)
        target = predicted if self.target == "predicted" else image.label
        deviation = self.noise * (inputs.max() - inputs.min())
        # drawn where they are used: on a GPU a draw of the CPU would take longer than the gradient
        draws = torch.Generator(network.device).manual_seed(image.generator().initial_seed())
        # sums over the samples with even and with odd numbers, in the gradients' form
        halves = torch.zeros(2, *inputs.shape, dtype=torch.float64, device=network.device)
        halves, done = halves.contiguous(memory_format=torch.channels_last), 0
        for count in sample_counts(self.samples, self.tolerance):
            for numbers in even_batches(torch.arange(done, count), batch_size):
                # one draw a sample: the values of a larger draw would depend on the batch size
                noise = [torch.randn(inputs.shape, generator=draws, device=network.device) for _ in numbers]
                found = network.gradients(inputs + deviation * torch.stack(noise), target)
                for half in (0, 1):
                    halves[half] += found[(half - int(numbers[0])) % 2 :: 2].sum(0)
            done, agreement = count, halves_reliability(*halves.abs().sum(1))
            if self.tolerance is not None and agreement >= self.tolerance:
                break
        values = (halves.sum(0) / done).abs().sum(0).float().cpu()
        values.masked_fill_(values < torch.finfo(values.dtype).tiny, 0)  # what is left where outputs saturate
        return Explanation(values, predicted, probability, {"reliability": agreement, "samples": float(done)}, target)


def halves_reliability(first: Tensor, second: Tensor) -> float:
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
