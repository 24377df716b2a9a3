r"""LIME on superpixels (Ribeiro et al. 2016, doi:10.1145/2939672.2939778), as the paper's authors run it.

An image is perturbed by hiding superpixels, each by its mean colour; a weighted linear model of the network's
probability on the presence of the superpixels is fitted, and its weights are the explanation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus.errors import InputError, nearest
from xconsensus.explainers.explanation import Classifier, Explanation, Image
from xconsensus.explainers.gaussian_process import fit_process
from xconsensus.explainers.masks import (
    SAMPLINGS,
    check_tolerance,
    draw_masks,
    draw_population,
    even_batches,
    sample_counts,
)
from xconsensus.explainers.regression import Fit, are_constant, fit

REGRESSIONS = ("linear", "gaussian_process")
FEW = 16  # roundings that outputs of constant networks may be wrong by
POPULATION = 4096  # masks on which the process is read: many times as many as samples, and no pass of a network


@dataclass(frozen=True)
class Lime:
    """LIME with ``samples`` perturbed images, weighted by a kernel of ``kernel_width`` on the cosine distance.

    ``sampling`` is how masks are drawn: iid with ``keep_probability`` of a superpixel to stay visible, or hadamard
    (see `draw_masks`), and ``regression`` how weights follow: linear (`fit`, with the penalty ``ridge``), or
    gaussian_process (`fit_process`), which estimates the same weights from a quarter of the samples. With a
    ``tolerance`` an image gets samples until the fit's reliability (see `fit`) reaches it: a quarter, half, all,
    double, then four times ``samples``. ``target`` is the class explained: the one ``predicted`` on the unperturbed
    image, or the image's ``label``, which of target ``ensemble`` is the class that the committee predicts.
    """

    samples: int = 1000
    sampling: str = "iid"
    keep_probability: float = 0.5
    kernel_width: float = 0.25
    regression: str = "linear"
    ridge: float = 0.0
    tolerance: float | None = None
    target: str = "predicted"
    on_superpixels = True
    fewer_bits = ("bfloat16", "float16", "int8")

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"explainer.samples={self.samples}: LIME needs at least 2")
        if self.sampling not in SAMPLINGS:
            raise InputError(f"explainer.sampling={self.sampling} is unknown{nearest(self.sampling, SAMPLINGS)}")
        if not 0 < self.keep_probability < 1:
            raise InputError(f"explainer.keep_probability={self.keep_probability} is not between 0 and 1")
        if self.sampling != "iid" and self.keep_probability != 0.5:
            raise InputError(f"explainer.keep_probability={self.keep_probability}: {self.sampling} masks need 0.5")
        if self.regression not in REGRESSIONS:
            raise InputError(
                f"explainer.regression={self.regression} is unknown{nearest(self.regression, REGRESSIONS)}"
            )
        if self.regression != "linear" and self.ridge != 0:
            raise InputError(f"explainer.ridge={self.ridge}: {self.regression} takes 0")
        if self.kernel_width <= 0:
            raise InputError(f"explainer.kernel_width={self.kernel_width} is not positive")
        check_tolerance(self.tolerance)
        check_target(self.target)

    def passes(self) -> tuple[int, int]:
        return self.samples + 1, 0

    def __call__(self, network: Classifier, image: Image, batch_size: int) -> Explanation:
        """One weight a superpixel, (K,); fields: ``r2``, ``intercept`` and ``reliability`` of the fit, and ``samples``
        it took.
        """
        assert image.segments is not None
        pixels, segments = torch.tensor(image.pixels).permute(2, 0, 1), image.segments.to(network.device)
        shown = network.normalise(pixels.to(network.device))
        hidden = network.normalise(mean_colours(pixels, image.segments).to(network.device))
        predicted, probability = network.label(shown)
        target = predicted if self.target == "predicted" else image.label
        superpixels, draws = int(image.segments.max()) + 1, image.generator()
        masks, outputs = torch.empty(0, superpixels, dtype=torch.bool), torch.empty(0)
        limits: list[Tensor] = []
        for count in sample_counts(self.samples, self.tolerance):
            new = draw_masks(count - len(masks), superpixels, self.sampling, self.keep_probability, draws)
            new[0] |= len(masks) == 0  # the very first shows all
            with torch.inference_mode():
                batches = (rows.to(network.device) for rows in even_batches(new, batch_size))
                logits = torch.cat([network(perturb(shown, hidden, segments, rows)) for rows in batches])
            masks, outputs = torch.cat([masks, new]), torch.cat([outputs, logits.softmax(1)[:, target].cpu()])
            limits += [logits.amin(0), logits.amax(0)]
            fitted = self._fit(masks, outputs, image)
            # real networks have been seen to tell superpixels apart in 3 roundings; where they do not, it is noise
            told = fitted.reliability >= 0.5 or len(masks) <= superpixels + 1
            if any(are_constant(each, 1 if told else FEW) for each in (outputs, torch.stack(limits))):
                fitted = Fit(torch.zeros(superpixels), float(outputs[0]), 0.0, 0.0)
            if self.tolerance is not None and fitted.reliability >= self.tolerance:
                break
        fields = {"r2": fitted.r2, "intercept": fitted.intercept, "reliability": fitted.reliability}
        fields["samples"] = float(len(masks))
        return Explanation(fitted.coefficients.float(), predicted, probability, fields, target)

    def _fit(self, masks: Tensor, outputs: Tensor, image: Image) -> Fit:
        """The regression of ``outputs`` (n,) on ``masks`` (n, K), weighted by the kernel."""
        weights, pairs = kernel_weights(masks, self.kernel_width), self.sampling != "iid"
        if self.regression == "linear":
            return fit(masks, outputs, weights, self.ridge, pairs=pairs)
        assert image.segments is not None
        changes = changes_by_hiding(torch.tensor(image.pixels).permute(2, 0, 1), image.segments)
        population = draw_population(POPULATION, masks.shape[1], self.keep_probability, image.generator())
        importance = kernel_weights(population, self.kernel_width)
        return fit_process(masks, outputs, weights, changes, population, importance, pairs=pairs)


def mean_colours(pixels: Tensor, segments: Tensor) -> Tensor:
    """uint8 (3, H, W) in which every superpixel of uint8 ``pixels`` (3, H, W) has its mean colour, rounded down.

    Rounded down because the mean is stored into a uint8 image in InterpretDL and lime alike.
    """
    flat = segments.flatten().long()
    sums = torch.zeros(3, int(flat.max()) + 1, dtype=torch.float64).index_add_(1, flat, pixels.flatten(1).double())
    means = (sums / flat.bincount()).floor().to(torch.uint8)
    return means[:, segments.long()]


def changes_by_hiding(pixels: Tensor, segments: Tensor) -> Tensor:
    """How hiding changes each superpixel: sums (K,), float64, of squared differences of uint8 ``pixels`` (3, H, W)."""
    squares = (pixels.double() - mean_colours(pixels, segments).double()).square().sum(0)
    flat = segments.flatten().long()
    return torch.zeros(int(flat.max()) + 1, dtype=torch.float64).index_add_(0, flat, squares.flatten())


def perturb(original: Tensor, hidden: Tensor, segments: Tensor, masks: Tensor) -> Tensor:
    """Images (n, 3, H, W) showing ``original`` (3, H, W) where the mask (n, K) of the pixel's superpixel is True.

    Channels last, in the dtype of ``original``: written once, in the form the network reads.
    """
    of_values = segments.long().flatten().repeat_interleave(len(original))  # the superpixel of each number of an image
    shown = masks.gather(1, of_values.expand(len(masks), -1))
    rows = torch.where(shown, original.permute(1, 2, 0).flatten(), hidden.permute(1, 2, 0).flatten())
    return rows.view(len(masks), *segments.shape, len(original)).permute(0, 3, 1, 2)


def kernel_weights(masks: Tensor, width: float) -> Tensor:
    """sqrt(exp(-d^2 / width^2)) (n,), float64, d the cosine distance of each mask (n, K) to the whole image.

    For a binary mask with s of K superpixels visible, d = 1 - sqrt(s / K).
    """
    distance = 1 - masks.double().mean(1).sqrt()
    return torch.exp(-(distance**2) / width**2).sqrt()


def check_target(target: str) -> None:
    """InputError unless ``target`` is a class that can be explained."""
    if target not in ("predicted", "label", "ensemble"):
        raise InputError(f"explainer.target={target} is none of predicted, label, ensemble")
