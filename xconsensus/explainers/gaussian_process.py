r"""LIME's weights from fewer samples: a logistic curve of a Gaussian process of the masks stands in for the network."""

import torch
from torch import Tensor

from xconsensus.explainers.regression import Fit, are_constant, fit, fitted_r2, reliability, sample_errors

# Of real networks a factor of four in the second hardly matters (docs/benchmarks.md).
_EXPONENT = 0.75  # a superpixel's prior variance grows with its change by hiding to this power
_PRIOR_WEIGHT = 0.5  # of the prior, in samples: it weighs as much as so many of the variance m (1 - m) of a mean m


def fit_process(
    masks: Tensor,
    outputs: Tensor,
    weights: Tensor,
    changes: Tensor,
    population: Tensor,
    importance: Tensor,
    *,
    pairs: bool = False,
) -> Fit:
    """The regression that `regression.fit` tends to with many masks, estimated from few through a Gaussian process.

    What a linear model leaves over of a network's probability is noise to its coefficients, and there is much of it:
    a probability saturates, superpixels act together, and of a hundred coefficients most are nearly zero. Here the
    probabilities are a logistic curve of a score that is a Gaussian process a priori: linear in the superpixels plus
    linear in their pairs, both parts of equal variance, and the more a superpixel's hiding changes the image, the more
    it may matter. The posterior mode (Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, section
    3.4, here with a quasi-likelihood) is read, without the network, on many more masks, and `fit` of these values is
    the result.

    Parameters
    ----------
    masks, outputs, weights, pairs : as in `fit`; the outputs are probabilities.
    changes : (K,), how much hiding each superpixel changes the image, sums of squares.
    population, importance : (m, K) and (m,), the many masks and their weights.

    R2 is that of the curve; the rest as in `fit`. The reliability is the agreement with another draw of masks.
    """
    if not outputs.isfinite().all() or are_constant(outputs):
        return fit(masks, outputs, weights)
    y, w = outputs.double(), weights.double() / weights.double().sum()
    mean = (w @ y).clamp(1e-12, 1 - 1e-12)
    scale = len(y) / (_PRIOR_WEIGHT * mean * (1 - mean))
    rows, everywhere = ((part.double() - 0.5) * _prior(changes).sqrt() for part in (masks, population))
    across = scale * _covariance(everywhere, rows)
    dual, constant, curve, slopes = _mode(scale * _covariance(rows, rows), y, w)
    values = (across @ dual + constant).sigmoid()
    linear = fit(population, values, importance)

    # how the coefficients follow from the responses, whitened by the roots of the slopes
    root = slopes.sqrt()
    inverse = torch.cholesky_inverse(_factor(scale * _covariance(rows, rows), root))
    q = inverse @ root
    remainder = inverse - torch.outer(q, q) / (root @ q)  # identity minus the hat matrix
    of_score = _regression_of(population, importance, values * (1 - values), across)
    influence = (of_score[:, :-1] * root) @ remainder + torch.outer(of_score[:, -1], q / (root @ q))
    left = remainder @ remainder  # covariance of residuals whose errors are equal: the hat matrix is no projection
    shared = left[0::2, 1::2].diagonal() if pairs else None
    residual = w * (y - curve) / root.clamp_min(1e-150)
    errors = sample_errors(influence.T, residual, left.diagonal(), shared)
    r2 = fitted_r2((y - curve) * w.sqrt(), (y - w @ y) * w.sqrt())
    return Fit(linear.coefficients, linear.intercept, r2, reliability(linear.coefficients, errors))


def _prior(changes: Tensor) -> Tensor:
    """Prior variances (K,) of the superpixels' effects, of mean 1."""
    relative = changes.double() / changes.double().mean().clamp_min(1e-300)
    variances: Tensor = relative.clamp_min(1e-6) ** _EXPONENT
    return variances / variances.mean()


def _covariance(first: Tensor, second: Tensor) -> Tensor:
    """Prior covariance (n, m) of the score at masks (n, K) and (m, K), each +-1/2 times the superpixels' deviations.

    The sum over superpixels of x_k x'_k, and over pairs of them of x_j x_k x'_j x'_k, brought to the same variance.
    """
    linear = first @ second.T
    pairs = (linear.square() - first.square() @ second.square().T) / 2
    variances = second[0].square()
    several = (variances.sum().square() - variances.square().sum()) / 2
    covariance: Tensor = linear + pairs * (variances.sum() / several.clamp_min(1e-300))
    return covariance


def _mode(covariance: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Posterior mode by Newton's method: dual (n,) and constant, score = covariance @ dual + constant, curve, slopes.

    The constant has no prior. ``slopes`` (n,) are w times the derivative of the curve.
    """
    dual, constant = torch.zeros_like(y), torch.logit((w @ y).clamp(1e-12, 1 - 1e-12))
    for _ in range(100):
        score = covariance @ dual + constant
        curve = score.sigmoid()
        slopes = w * curve * (1 - curve)
        root = slopes.sqrt()
        factor = _factor(covariance, root)
        # of the equations of a step (Rasmussen and Williams 2006, algorithm 3.1), with a constant that is free
        right = torch.stack([slopes * score + w * (y - curve), slopes], 1)
        solved = right - root[:, None] * torch.cholesky_solve(root[:, None] * (covariance @ right), factor)
        free = solved[:, 0].sum() / solved[:, 1].sum()
        new = solved[:, 0] - free * solved[:, 1]
        largest = float((covariance @ new + free - score).abs().max())
        damping = min(1.0, 2 / max(largest, 1e-300))  # no further than where the curve bends
        dual, constant = dual + damping * (new - dual), constant + damping * (free - constant)
        if largest < 1e-6:
            break
    return dual, constant, curve, slopes


def _factor(covariance: Tensor, root: Tensor) -> Tensor:
    """Cholesky factor of I + diag(root) covariance diag(root), which is never ill-conditioned."""
    factor: Tensor = torch.linalg.cholesky(torch.outer(root, root) * covariance + torch.eye(len(root)).double())
    return factor


def _regression_of(population: Tensor, importance: Tensor, slopes: Tensor, across: Tensor) -> Tensor:
    """Coefficients (K, n + 1) of the weighted linear regression of the columns slopes * [across, 1] (m, n + 1)."""
    x = torch.cat([torch.ones(len(population), 1, dtype=torch.float64), population.double() - 0.5], 1)
    weighted = x * (importance.double() / importance.double().sum())[:, None]
    columns = torch.cat([weighted.T @ (slopes[:, None] * across), (weighted.T @ slopes)[:, None]], 1)
    solved: Tensor = torch.linalg.pinv(weighted.T @ x, hermitian=True) @ columns
    return solved[1:]
