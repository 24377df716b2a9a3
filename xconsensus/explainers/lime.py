r"""LIME on superpixels (Ribeiro et al. 2016, doi:10.1145/2939672.2939778), as the paper's authors run it.

An image is perturbed by hiding superpixels, each by its mean colour; a weighted linear model of the network's
probability on the presence of the superpixels is fitted, and its weights are the explanation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus.errors import InputError, nearest
from xconsensus.explainers.explanation import Explanation, Image
from xconsensus.explainers.gaussian_process import fit_process
from xconsensus.explainers.masks import SAMPLINGS, check_tolerance, draw_masks, even_batches, steps
from xconsensus.explainers.regression import Fit, fit
from xconsensus.members.network import Network

REGRESSIONS = ("linear", "gaussian_process")
POPULATION = 4096  # masks on which the process is read: many times as many as samples, and no pass of a network
CALIBRATION = 2  # perturbed images that 8-bit arithmetic is fitted to; more of them gain nothing
CHECKED = 4  # further ones of which fewer bits are compared with float32


@dataclass(frozen=True)
class Lime:
    """LIME with ``samples`` perturbed images, weighted by a kernel of ``kernel_width`` on the cosine distance.

    ``sampling`` is how masks are drawn: iid with ``keep_probability`` of a superpixel to stay visible, or paired or
    hadamard (see `draw_masks`), and ``regression`` how weights follow: linear (`fit`, with the penalty ``ridge``), or
    gaussian_process (`fit_process`), which estimates the same weights from a quarter of the samples. With a
    ``tolerance`` an image gets samples until the fit's reliability (see `fit`) reaches it: a quarter, half, all,
    double, then four times ``samples``. ``target`` is the class explained: the one ``predicted`` on the unperturbed
    image, or the image's ``label``.
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
        return self.samples, 0

    def __call__(self, network: Network, image: Image, batch_size: int) -> Explanation:
        """One weight a superpixel; fields: ``r2``, ``intercept``, ``reliability`` of the fit, ``samples`` it took, and
        ``rounding`` (see `rounding`), 0 in float32.
        """
        assert image.segments is not None
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
        whole, blank = (
            network.normalise(part.to(network.device)) for part in (pixels, mean_colours(pixels, image.segments))
        )
        original, hidden = whole.to(network.dtype), blank.to(network.dtype)
        segments = image.segments.to(network.device)
        superpixels, generator = int(image.segments.max()) + 1, image.generator()

        def probabilities(masks: Tensor) -> Tensor:
            batches = even_batches(masks, batch_size)
            with torch.inference_mode():
                found = [network(perturb(original, hidden, segments, rows.to(network.device))) for rows in batches]
                return torch.cat([logits.softmax(1).cpu() for logits in found])

        first, *more = steps(self.samples, self.tolerance)
        masks = draw_masks(first, superpixels, self.sampling, self.keep_probability, generator)
        masks[0] = True  # the unperturbed image
        network.calibrate(perturb(original, hidden, segments, masks[:CALIBRATION].to(network.device)))
        outputs = probabilities(masks)
        checked = [0, *range(CALIBRATION, min(CALIBRATION + CHECKED, first))]
        exact = outputs[checked]
        if not network.is_exact:
            with torch.inference_mode():
                shown = perturb(whole, blank, segments, masks[checked].to(network.device))
                exact = network.exactly(shown).softmax(1).cpu()
        predicted, probability = int(exact[0].argmax()), float(exact[0].max())
        target = predicted if self.target == "predicted" else image.label
        outputs = outputs[:, target]
        fields = {"rounding": rounding(outputs, (outputs[checked] - exact[:, target])[1:])}
        fitted = self._fit(masks, outputs, image)
        for count in more:
            if self.tolerance is None or fitted.reliability >= self.tolerance:
                break
            new = draw_masks(count - len(masks), superpixels, self.sampling, self.keep_probability, generator)
            masks, outputs = torch.cat([masks, new]), torch.cat([outputs, probabilities(new)[:, target]])
            fitted = self._fit(masks, outputs, image)
        fields |= {"r2": fitted.r2, "intercept": fitted.intercept, "reliability": fitted.reliability}
        return Explanation(fitted.coefficients.float(), predicted, probability, fields | {"samples": float(len(masks))})

    def _fit(self, masks: Tensor, outputs: Tensor, image: Image) -> Fit:
        weights, pairs = kernel_weights(masks, self.kernel_width), self.sampling != "iid"
        if self.regression == "linear":
            return fit(masks, outputs, weights, self.ridge, pairs=pairs)
        segments = image.segments
        assert segments is not None
        sampling = "iid" if self.keep_probability != 0.5 else "paired"
        changes = changes_by_hiding(torch.from_numpy(image.pixels).permute(2, 0, 1), segments)
        population = draw_masks(POPULATION, masks.shape[1], sampling, self.keep_probability, image.generator())
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


def rounding(outputs: Tensor, errors: Tensor) -> float:
    """The share of fewer bits in the variance of ``outputs`` (n,) over masks: the mean square of the ``errors`` (m,) of
    some of them, by that variance; 0 without errors.
    """
    square = errors.double().square().mean()
    return float(square / outputs.double().var()) if square > 0 else 0.0


def kernel_weights(masks: Tensor, width: float) -> Tensor:
    """sqrt(exp(-d^2 / width^2)) (n,), float64, d the cosine distance of each mask (n, K) to the whole image.

    For a binary mask with s of K superpixels visible, d = 1 - sqrt(s / K).
    """
    distance = 1 - masks.double().mean(1).sqrt()
    return torch.exp(-(distance**2) / width**2).sqrt()


def check_target(target: str) -> None:
    """InputError unless ``target`` is a class that can be explained."""
    if target not in ("predicted", "label"):
        raise InputError(f"explainer.target={target} is neither predicted nor label")
