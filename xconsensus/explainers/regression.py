r"""LIME's weighted linear regression, and how far the draw of masks can be trusted."""

from typing import NamedTuple

import torch
from torch import Tensor


class Fit(NamedTuple):
    """A weighted linear regression: coefficients (K,), float64, intercept, weighted R2, and reliability in 0..1."""

    coefficients: Tensor
    intercept: float
    r2: float
    reliability: float


def fit(masks: Tensor, outputs: Tensor, weights: Tensor, ridge: float = 0.0, *, pairs: bool = False) -> Fit:
    """Weighted linear regression of ``outputs`` on ``masks`` with an unpenalised intercept.

    Minimises sum_i w_i (y_i - b - <x_i, coef>)^2 + ridge ||coef||^2; the least-norm solution where the samples do
    not determine it.

    Parameters
    ----------
    masks, outputs, weights : (n, K), (n,) and (n,): x, y and w.
    ridge : 0 = no penalty.
    pairs : whether masks 2 i and 2 i + 1 were drawn together.

    Coefficients, R2 and reliability are 0 for outputs that `are_constant`, as nothing is explained. The reliability is
    `reliability`, 0 where the samples do not determine the solution. All is NaN where an output is not finite.
    """
    if not outputs.isfinite().all():
        return Fit(torch.full((masks.shape[1],), torch.nan, dtype=torch.float64), *[float("nan")] * 3)
    x, y, w = masks.double(), outputs.double(), weights.double() / weights.double().sum()
    x_mean, y_mean = w @ x, w @ y
    if are_constant(outputs):
        return Fit(torch.zeros_like(x_mean), float(y_mean), 0.0, 0.0)
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
        inverse = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), torch.cholesky_inverse(factor))
        whole = torch.cat([root[:, None], design], 1)
        influence = whole @ inverse
        remainder = 1 - (influence * whole).sum(1)
        shared = -(influence[:-1:2] * whole[1::2]).sum(1) if pairs else None
        trust = reliability(coefficients, sample_errors(influence[:, 1:], residual, remainder, shared))
    else:
        design = torch.cat([design, penalty**0.5 * identity])  # rows that pull each coefficient to 0
        padded = torch.cat([response, response.new_zeros(len(identity))])
        coefficients = torch.linalg.lstsq(design, padded[:, None], driver="gelsd").solution[:, 0]
        residual, trust = (padded - design @ coefficients)[: len(response)], 0.0
    return Fit(coefficients, float(y_mean - x_mean @ coefficients), fitted_r2(residual, response), trust)


def are_constant(outputs: Tensor, roundings: float = 1) -> bool:
    """Whether outputs (n,) or (n, classes) differ by so many machine epsilons of the largest at most."""
    spread = outputs.amax(0) - outputs.amin(0)
    return bool((spread <= roundings * torch.finfo(outputs.dtype).eps * outputs.abs().amax()).all())


def sample_errors(influence: Tensor, residual: Tensor, remainder: Tensor, shared: Tensor | None) -> Tensor:
    """What each sample, or each pair of samples, adds by chance to p parameters: (n, p) or (n / 2, p).

    ``influence`` (n, p) is how the parameters follow from each response, ``residual`` (n,) what is left of these,
    ``remainder`` (n,) the diagonal of (I - H)(I - H)' with the hat matrix H (for a projection that of I - H), and
    ``shared`` (n / 2,) its elements of samples 2 i and 2 i + 1, when these were drawn together. The sum of outer
    products of the rows is the heteroscedasticity-consistent covariance HC2 (MacKinnon and White 1985,
    doi:10.1016/0304-4076(85)90158-7), or for pairs, whose errors are not independent, its extension CR2 to clusters
    (Bell and McCaffrey 2002, Survey Methodology 28): residuals are divided by the root of the remainder.
    """
    if shared is None:
        return influence * (residual / remainder.clamp_min(1e-9).sqrt())[:, None]
    if len(residual) % 2:
        influence = torch.cat([influence, influence.new_zeros(1, influence.shape[1])])
        residual, remainder = (
            torch.cat([residual, residual.new_zeros(1)]),
            torch.cat([remainder, remainder.new_ones(1)]),
        )
        shared = torch.cat([shared, shared.new_zeros(1)])
    a, b, c = remainder[0::2], shared, remainder[1::2]
    # the inverse root of [[a, b], [b, c]], from Cayley and Hamilton
    s = (a * c - b * b).clamp_min(1e-18).sqrt()
    scale = (a + c + 2 * s).sqrt() / ((a + s) * (c + s) - b * b)
    first, second = residual[0::2], residual[1::2]
    first, second = scale * ((c + s) * first - b * second), scale * ((a + s) * second - b * first)
    return influence[0::2] * first[:, None] + influence[1::2] * second[:, None]


def reliability(coefficients: Tensor, errors: Tensor) -> float:
    """The correlation to expect between these coefficients and those of other masks as many, in 0..1.

    That is 1 - (variance of the coefficients due to the draw of masks) / (their variance over the superpixels).
    0 for coefficients that are all noise, or all equal.
    """
    spread = coefficients.var(correction=0)
    if spread <= 0:
        return 0.0
    # variance over the superpixels that the draw adds: an error common to all of them adds none
    noise = (errors - errors.mean(1, keepdim=True)).square().sum() / len(coefficients)
    return float((1 - noise / spread).clamp(0, 1))


def fitted_r2(residual: Tensor, response: Tensor) -> float:
    """1 - sum of squares of ``residual`` (n,) / that of the centred ``response`` (n,); 0 for a constant response."""
    total = response.square().sum()
    return float(1 - residual.square().sum() / total) if total > 0 else 0.0
