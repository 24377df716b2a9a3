r"""LIME on superpixels (Ribeiro et al. 2016, doi:10.1145/2939672.2939778), as the paper's authors run it.

An image is perturbed by hiding superpixels, each by its mean colour; a weighted linear model of the network's
probability on the presence of the superpixels is fitted, and its weights are the explanation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from xconsensus.committee import Network
from xconsensus.errors import InputError, nearest
from xconsensus.explainers.explanation import Explanation, Image
from xconsensus.explainers.sampling import SAMPLINGS, check_tolerance, draw_masks, even_batches, steps


@dataclass(frozen=True)
class Lime:
    """LIME with ``samples`` perturbed images, weighted by a kernel of ``kernel_width`` on the cosine distance.

    ``sampling`` is how masks are drawn: iid with ``keep_probability`` of a superpixel to stay visible, or paired or
    hadamard (see `draw_masks`), which need fewer samples. With a ``tolerance`` an image gets samples until the fit's
    reliability (see `fit`) reaches it: a quarter, half, all, double, then four times ``samples``. ``ridge`` is the
    penalty of the regression; ``target`` the class explained: the one ``predicted`` on the unperturbed image, or the
    image's ``label``.
    """

    samples: int = 1000
    sampling: str = "iid"
    keep_probability: float = 0.5
    kernel_width: float = 0.25
    ridge: float = 0.0
    tolerance: float | None = None
    target: str = "predicted"
    on_superpixels = True

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"explainer.samples={self.samples}: LIME needs at least 2")
        if self.sampling not in SAMPLINGS:
            raise InputError(f"explainer.sampling={self.sampling} is unknown{nearest(self.sampling, SAMPLINGS)}")
        if not 0 < self.keep_probability < 1:
            raise InputError(f"explainer.keep_probability={self.keep_probability} is not between 0 and 1")
        if self.sampling != "iid" and self.keep_probability != 0.5:
            raise InputError(f"explainer.keep_probability={self.keep_probability}: {self.sampling} masks need 0.5")
        if self.kernel_width <= 0:
            raise InputError(f"explainer.kernel_width={self.kernel_width} is not positive")
        check_tolerance(self.tolerance)
        check_target(self.target)

    def passes(self) -> tuple[int, int]:
        return self.samples, 0

    def __call__(self, network: Network, image: Image, batch_size: int) -> Explanation:
        """One weight a superpixel; fields: ``r2``, ``intercept``, ``reliability`` of the fit, ``samples`` it took."""
        assert image.segments is not None
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
        original, hidden = (
            network.normalise(part.to(network.device)).to(network.dtype)
            for part in (pixels, mean_colours(pixels, image.segments))
        )
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
        outputs = probabilities(masks)
        predicted, probability = int(outputs[0].argmax()), float(outputs[0].max())
        target = predicted if self.target == "predicted" else image.label
        outputs = outputs[:, target]
        fitted = self._fit(masks, outputs)
        for count in more:
            if self.tolerance is None or fitted.reliability >= self.tolerance:
                break
            new = draw_masks(count - len(masks), superpixels, self.sampling, self.keep_probability, generator)
            masks, outputs = torch.cat([masks, new]), torch.cat([outputs, probabilities(new)[:, target]])
            fitted = self._fit(masks, outputs)
        fields = {"r2": fitted.r2, "intercept": fitted.intercept, "reliability": fitted.reliability}
        return Explanation(
            fitted.coefficients.float(), predicted, probability, {**fields, "samples": float(len(masks))}
        )

    def _fit(self, masks: Tensor, outputs: Tensor) -> "Fit":
        return fit(masks, outputs, kernel_weights(masks, self.kernel_width), self.ridge)


def mean_colours(pixels: Tensor, segments: Tensor) -> Tensor:
    """uint8 (3, H, W) in which every superpixel of uint8 ``pixels`` (3, H, W) has its mean colour, rounded down.

    Rounded down because the mean is stored into a uint8 image in InterpretDL and lime alike.
    """
    flat = segments.flatten().long()
    sums = torch.zeros(3, int(flat.max()) + 1, dtype=torch.float64).index_add_(1, flat, pixels.flatten(1).double())
    means = (sums / flat.bincount()).floor().to(torch.uint8)
    return means[:, segments.long()]


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


class Fit(NamedTuple):
    """A weighted linear regression: coefficients (K,), float64, intercept, weighted R2, and reliability in 0..1."""

    coefficients: Tensor
    intercept: float
    r2: float
    reliability: float


def fit(masks: Tensor, outputs: Tensor, weights: Tensor, ridge: float = 0.0) -> Fit:
    """Weighted linear regression of ``outputs`` (n,) on ``masks`` (n, K) with an unpenalised intercept.

    Minimises sum_i w_i (y_i - b - <x_i, coef>)^2 + ridge ||coef||^2; the least-norm solution where the samples do
    not determine it. R2 is 0 for constant outputs, as nothing is explained. The reliability is `_reliability`, 0
    where the samples do not determine the solution. All is NaN where an output is not finite.
    """
    if not outputs.isfinite().all():
        return Fit(torch.full((masks.shape[1],), torch.nan, dtype=torch.float64), *[float("nan")] * 3)
    x, y, w = masks.double(), outputs.double(), weights.double() / weights.double().sum()
    x_mean, y_mean = w @ x, w @ y
    root = w.sqrt()
    design, response = (x - x_mean) * root[:, None], (y - y_mean) * root
    penalty = float(ridge / weights.double().sum())  # the weights above sum to 1, so the penalty is scaled alike
    identity = torch.eye(x.shape[1], dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(design.T @ design + penalty * identity)
    pivots = factor.diagonal()
    # The normal equations square the condition number: 1e-4 leaves eight digits, and masks are mostly far above it.
    if not failed and pivots.min() > 1e-4 * pivots.max():
        coefficients = torch.cholesky_solve((design.T @ response)[:, None], factor)[:, 0]
        residual = response - design @ coefficients
        reliability = _reliability(design, residual, w, coefficients, torch.cholesky_inverse(factor))
    else:
        design = torch.cat([design, penalty**0.5 * identity])  # rows that pull each coefficient to 0
        padded = torch.cat([response, response.new_zeros(len(identity))])
        coefficients = torch.linalg.lstsq(design, padded[:, None], driver="gelsd").solution[:, 0]
        residual, reliability = (padded - design @ coefficients)[: len(response)], 0.0
    total = response.square().sum()
    r2 = float(1 - residual.square().sum() / total) if total > 0 else 0.0
    return Fit(coefficients, float(y_mean - x_mean @ coefficients), r2, reliability)


def _reliability(design: Tensor, residual: Tensor, weights: Tensor, coefficients: Tensor, inverse: Tensor) -> float:
    """The correlation to expect between these coefficients and those of other masks as many, in 0..1.

    That is 1 - (variance of the coefficients due to the draw of masks) / (their variance over the superpixels): the
    first by the heteroscedasticity-consistent estimate HC2 (MacKinnon and White 1985,
    doi:10.1016/0304-4076(85)90158-7), which takes whatever the linear model leaves unexplained as noise. 0 for
    coefficients that are all noise, or all equal.
    """
    spread = coefficients.var(correction=0)
    if spread <= 0:
        return 0.0
    influence = design @ inverse
    leverage = (influence * design).sum(1) + weights
    errors = influence * (residual / (1 - leverage).clamp_min(1e-9).sqrt())[:, None]
    # variance over the superpixels that the draw adds: an error common to all of them adds none
    noise = (errors - errors.mean(1, keepdim=True)).square().sum() / len(coefficients)
    return float((1 - noise / spread).clamp(0, 1))


def check_target(target: str) -> None:
    """InputError unless ``target`` is a class that can be explained."""
    if target not in ("predicted", "label"):
        raise InputError(f"explainer.target={target} is neither predicted nor label")
