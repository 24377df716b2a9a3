r"""LIME's weighted linear regression, how far the draw of masks can be trusted, and a way to need fewer of them."""

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
    """Weighted linear regression of ``outputs`` (n,) on ``masks`` (n, K) with an unpenalised intercept.

    Minimises sum_i w_i (y_i - b - <x_i, coef>)^2 + ridge ||coef||^2; the least-norm solution where the samples do
    not determine it. R2 is 0 for constant outputs, as nothing is explained. The reliability is `_reliability`, 0
    where the samples do not determine the solution; ``pairs`` says that masks 2 i and 2 i + 1 were drawn together.
    All is NaN where an output is not finite.
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
        inverse = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), torch.cholesky_inverse(factor))
        errors = _errors(torch.cat([root[:, None], design], 1), residual, inverse, pairs)[:, 1:]
        reliability = _reliability(coefficients, errors)
    else:
        design = torch.cat([design, penalty**0.5 * identity])  # rows that pull each coefficient to 0
        padded = torch.cat([response, response.new_zeros(len(identity))])
        coefficients = torch.linalg.lstsq(design, padded[:, None], driver="gelsd").solution[:, 0]
        residual, reliability = (padded - design @ coefficients)[: len(response)], 0.0
    return Fit(coefficients, float(y_mean - x_mean @ coefficients), _r2(residual, response), reliability)


def fit_logistic(
    masks: Tensor, outputs: Tensor, weights: Tensor, population: Tensor, importance: Tensor, *, pairs: bool = False
) -> Fit:
    """The regression that `fit` tends to with many masks, estimated from few by way of a logistic curve.

    A probability saturates, so it is no linear function of the masks, and what the linear model leaves over is noise
    to its coefficients. A logistic curve of a linear score leaves over far less. It is fitted to the probabilities
    ``outputs`` (n,) by quasi-likelihood (Papke and Wooldridge 1996,
    doi:10.1002/(SICI)1099-1255(199611)11:6<619::AID-JAE418>3.0.CO;2-1) and then read, without the network, on
    ``population`` (m, K), many more masks of weight ``importance`` (m,): `fit` of these values is the result. With
    more and more samples it is that of `fit`, however wrong the curve, as the curve's weighted residual is
    orthogonal to every superpixel: a model-assisted estimate (Lehtonen and Veijanen 1998, Survey Methodology 24).

    R2 is the curve's; the rest as in `fit`.
    """
    if not outputs.isfinite().all() or outputs.min() == outputs.max():
        return fit(masks, outputs, weights)
    y, w = outputs.double(), weights.double() / weights.double().sum()
    x, everywhere = _with_constant(masks), _with_constant(population)
    score, inverse, curve = _logistic(x, y, w)
    residual, slopes = y - curve, curve * (1 - curve)
    values = (everywhere @ score).sigmoid()
    linear = fit(population, values, importance)
    # how the coefficients follow the score, for the errors: the same regression, of the curve's derivatives
    root = (importance.double() / importance.double().sum()).sqrt()[:, None]
    derivatives = everywhere * (values * (1 - values))[:, None] * root
    transform = torch.linalg.lstsq(everywhere * root, derivatives).solution[1:]
    whitening = (w * slopes).clamp_min(1e-300).sqrt()
    errors = _errors(x * whitening[:, None], w * residual / whitening, inverse, pairs) @ transform.T
    determined = len(errors) > x.shape[1]
    reliability = _reliability(linear.coefficients, errors) if determined else 0.0
    r2 = _r2(residual * w.sqrt(), (y - w @ y) * w.sqrt())
    return Fit(linear.coefficients, linear.intercept, r2, reliability)


def _logistic(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score (p,) of the logistic curve, inverse Hessian (p, p), and the curve (n,), by Newton's method.

    Each coefficient but the constant is pulled to 0 as much as one more sample would: enough to determine it.
    """
    mean = (w @ y).clamp(1e-12, 1 - 1e-12)
    penalty = torch.full((x.shape[1],), float(mean * (1 - mean) / len(y)), dtype=torch.float64)
    penalty[0] = 0
    score = torch.zeros(x.shape[1], dtype=torch.float64)
    score[0] = torch.logit(mean)
    for _ in range(100):
        curve = (x @ score).sigmoid()
        hessian = x.T @ (x * (w * curve * (1 - curve))[:, None]) + penalty.diag()
        inverse = torch.linalg.pinv(hessian, hermitian=True)
        step = inverse @ (x.T @ (w * (y - curve)) - penalty * score)
        largest = float((x @ step).abs().max())
        score = score + step * min(1.0, 2 / max(largest, 1e-300))  # no further than where the curve bends
        if largest < 1e-8:
            break
    return score, inverse, curve


def _with_constant(masks: Tensor) -> Tensor:
    """A column of ones and the masks as -1/2 and 1/2, float64: the constant is then the mean."""
    return torch.cat([torch.ones(len(masks), 1, dtype=torch.float64), masks.double() - 0.5], 1)


def _errors(design: Tensor, residual: Tensor, inverse: Tensor, pairs: bool) -> Tensor:
    """What each sample, or each of the ``pairs``, adds by chance to the parameters: (n, p) or (n / 2, p).

    Of the least-squares parameters inverse @ design.T @ response with design (n, p) and inverse (p, p). The sum of
    their outer products is the heteroscedasticity-consistent covariance HC2 (MacKinnon and White 1985,
    doi:10.1016/0304-4076(85)90158-7), or for pairs, whose errors are not independent, its extension CR2 to clusters
    (Bell and McCaffrey 2002, Survey Methodology 28): residuals are divided by the root of one minus the leverage.
    """
    influence = design @ inverse
    if not pairs:
        leverage = (influence * design).sum(1)
        return influence * (residual / (1 - leverage).clamp_min(1e-9).sqrt())[:, None]
    if len(design) % 2:
        design, influence = (torch.cat([part, part.new_zeros(1, part.shape[1])]) for part in (design, influence))
        residual = torch.cat([residual, residual.new_zeros(1)])
    one, other = influence[0::2], influence[1::2]
    a, c = 1 - (one * design[0::2]).sum(1), 1 - (other * design[1::2]).sum(1)
    b = -(one * design[1::2]).sum(1)
    # the inverse root of [[a, b], [b, c]], from Cayley and Hamilton
    s = (a * c - b * b).clamp_min(1e-18).sqrt()
    scale = (a + c + 2 * s).sqrt() / ((a + s) * (c + s) - b * b)
    first, second = residual[0::2], residual[1::2]
    first, second = scale * ((c + s) * first - b * second), scale * ((a + s) * second - b * first)
    return one * first[:, None] + other * second[:, None]


def _reliability(coefficients: Tensor, errors: Tensor) -> float:
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


def _r2(residual: Tensor, response: Tensor) -> float:
    total = response.square().sum()
    return float(1 - residual.square().sum() / total) if total > 0 else 0.0
