r"""LIME on superpixels (Ribeiro et al. 2016, doi:10.1145/2939672.2939778), as the paper's authors run it.

An image is perturbed by hiding superpixels, each by its mean colour; a weighted linear model of the network's
probability on the presence of the superpixels is fitted, and its weights are the explanation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus.committee import Network
from xconsensus.errors import InputError
from xconsensus.explainers.explanation import Explanation, Image


@dataclass(frozen=True)
class Lime:
    """LIME with ``samples`` perturbed images, weighted by a kernel of ``kernel_width`` on the cosine distance.

    ``keep_probability`` is that of a superpixel to stay visible; ``ridge`` the penalty of the regression; ``target``
    the class explained: the one ``predicted`` on the unperturbed image, or the image's ``label``.
    """

    samples: int = 1000
    keep_probability: float = 0.5
    kernel_width: float = 0.25
    ridge: float = 0.0
    target: str = "predicted"
    on_superpixels = True

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"explainer.samples={self.samples}: LIME needs at least 2")
        if not 0 < self.keep_probability < 1:
            raise InputError(f"explainer.keep_probability={self.keep_probability} is not between 0 and 1")
        if self.kernel_width <= 0:
            raise InputError(f"explainer.kernel_width={self.kernel_width} is not positive")
        check_target(self.target)

    def passes(self) -> tuple[int, int]:
        return self.samples, 0

    def __call__(self, network: Network, image: Image, batch_size: int) -> Explanation:
        """One weight a superpixel, with the fit's weighted ``r2`` and ``intercept`` as fields."""
        assert image.segments is not None
        device = network.device
        pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)
        masks = bernoulli_masks(self.samples, int(image.segments.max()) + 1, self.keep_probability, image.generator())
        original, hidden = (
            network.normalise(part.to(device)) for part in (pixels, mean_colours(pixels, image.segments))
        )
        segments = image.segments.to(device)
        with torch.inference_mode():
            batches = (perturb(original, hidden, segments, rows.to(device)) for rows in masks.split(batch_size))
            probabilities = torch.cat([network(batch).softmax(1).cpu() for batch in batches])
        predicted = int(probabilities[0].argmax())
        outputs = probabilities[:, predicted if self.target == "predicted" else image.label].double()
        weights = kernel_weights(masks, self.kernel_width)
        coefficients, intercept, r2 = fit(masks, outputs, weights, self.ridge)
        return Explanation(
            coefficients.float(), predicted, float(probabilities[0, predicted]), {"r2": r2, "intercept": intercept}
        )


def bernoulli_masks(samples: int, superpixels: int, keep: float, generator: torch.Generator) -> Tensor:
    """Masks (samples, superpixels), bool, True where visible: independent with probability ``keep``, first row all."""
    masks = torch.rand(samples, superpixels, generator=generator) < keep
    masks[0] = True
    return masks


def mean_colours(pixels: Tensor, segments: Tensor) -> Tensor:
    """uint8 (3, H, W) in which every superpixel of uint8 ``pixels`` (3, H, W) has its mean colour, rounded down.

    Rounded down because the mean is stored into a uint8 image in InterpretDL and lime alike.
    """
    flat = segments.flatten().long()
    sums = torch.zeros(3, int(flat.max()) + 1, dtype=torch.float64).index_add_(1, flat, pixels.flatten(1).double())
    means = (sums / flat.bincount()).floor().to(torch.uint8)
    return means[:, segments.long()]


def perturb(original: Tensor, hidden: Tensor, segments: Tensor, masks: Tensor) -> Tensor:
    """Images (n, 3, H, W) showing ``original`` (3, H, W) where the mask (n, K) of the pixel's superpixel is True."""
    return torch.where(masks[:, segments.long()].unsqueeze(1), original, hidden)


def kernel_weights(masks: Tensor, width: float) -> Tensor:
    """sqrt(exp(-d^2 / width^2)) (n,), float64, d the cosine distance of each mask (n, K) to the whole image.

    For a binary mask with s of K superpixels visible, d = 1 - sqrt(s / K).
    """
    distance = 1 - masks.double().mean(1).sqrt()
    return torch.exp(-(distance**2) / width**2).sqrt()


def fit(masks: Tensor, outputs: Tensor, weights: Tensor, ridge: float = 0.0) -> tuple[Tensor, float, float]:
    """Weighted linear regression of ``outputs`` (n,) on ``masks`` (n, K) with an unpenalised intercept.

    Minimises sum_i w_i (y_i - b - <x_i, coef>)^2 + ridge ||coef||^2; the least-norm solution where the samples do
    not determine it. Returns the coefficients (K,), float64, the intercept, and the weighted R2 (0 for constant
    outputs, as nothing is explained); all NaN where an output is not finite.
    """
    if not outputs.isfinite().all():
        return torch.full((masks.shape[1],), torch.nan, dtype=torch.float64), float("nan"), float("nan")
    x, y, w = masks.double(), outputs.double(), weights.double() / weights.double().sum()
    x_mean, y_mean = w @ x, w @ y
    root = w.sqrt()
    design, response = (x - x_mean) * root[:, None], (y - y_mean) * root
    penalty = ridge / weights.double().sum()  # the weights above sum to 1, so the penalty is scaled alike
    coefficients = _solve(design, response, float(penalty))
    residual = (root * (y - y_mean - (x - x_mean) @ coefficients)).square().sum()
    total = (root * (y - y_mean)).square().sum()
    r2 = float(1 - residual / total) if total > 0 else 0.0
    return coefficients, float(y_mean - x_mean @ coefficients), r2


def _solve(design: Tensor, response: Tensor, penalty: float) -> Tensor:
    """The b (K,) that minimises ||response - design b||^2 + penalty ||b||^2, of least norm among several."""
    identity = torch.eye(design.shape[1], dtype=design.dtype)
    factor, failed = torch.linalg.cholesky_ex(design.T @ design + penalty * identity)
    pivots = factor.diagonal()
    # The normal equations square the condition number: 1e-4 leaves eight digits, and masks are mostly far above it.
    if not failed and pivots.min() > 1e-4 * pivots.max():
        return torch.cholesky_solve((design.T @ response)[:, None], factor)[:, 0]
    design = torch.cat([design, penalty**0.5 * identity])  # rows that pull each coefficient to 0
    response = torch.cat([response, response.new_zeros(len(identity))])
    solution: Tensor = torch.linalg.lstsq(design, response[:, None], driver="gelsd").solution
    return solution[:, 0]


def check_target(target: str) -> None:
    """InputError unless ``target`` is a class that can be explained."""
    if target not in ("predicted", "label"):
        raise InputError(f"explainer.target={target} is neither predicted nor label")
