r"""The vote and the similarities of Algorithm 2 (Li et al. 2023, doi:10.1007/s10994-023-06312-1).

A vote turns each member's explanation L_j into a ballot; the consensus is the mean of the ballots. A similarity
compares a member's explanation with the consensus. Explanations are float tensors whose last axis is the
K dimensions of one explanation: its superpixels, or its pixels in a row.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from xconsensus import own_code
from xconsensus.errors import InputError, nearest


def normalised_squares(explanation: Tensor) -> Tensor:
    r"""LIME's ballot, L_k^2 / ||L||, of explanations (..., K); zeros for an explanation that is zero."""
    norm = torch.linalg.vector_norm(explanation, dim=-1, keepdim=True)
    return torch.where(norm > 0, explanation.square() / norm, 0.0)


def min_max(explanation: Tensor) -> Tensor:
    r"""SmoothGrad's ballot, (L_k - min L) / (max L - min L), of (..., K), in 0..1; zeros for a constant map."""
    # amin and amax: aminmax along a dimension takes ten times as long
    low, high = explanation.amin(-1, keepdim=True), explanation.amax(-1, keepdim=True)
    return (explanation - low).div_(torch.where(high > low, high - low, torch.inf))


def squares(explanation: Tensor) -> Tensor:
    """L_k^2 without normalisation: the ballot of a later script of the first author, an option for SmoothGrad."""
    return explanation.square()


def signed(explanation: Tensor) -> Tensor:
    r"""L_k / ||L|| of (..., K): the ballot whose signs count; zeros for an explanation that is zero."""
    norm = torch.linalg.vector_norm(explanation, dim=-1, keepdim=True)
    return torch.where(norm > 0, explanation / norm, 0.0)


def positive(explanation: Tensor) -> Tensor:
    r"""max(L_k, 0) / ||L|| of (..., K): the ballot without evidence against the class."""
    return signed(explanation).clamp_min(0)


def consensus(members: Iterable[Iterable[Tensor]]) -> list[Tensor]:
    """The mean of the members' ballots of each of some images, or of several at once, summed in the ballots' dtype.

    Members come one at a time, each with its ballots in the order of the images: memory does not grow with them.
    """
    totals: list[Tensor] = []
    count = 0
    for count, ballots in enumerate(members, 1):
        if count == 1:
            totals = [ballot.clone() for ballot in ballots]
        else:
            for total, ballot in zip(totals, ballots, strict=True):
                total += ballot
    if count == 0:
        raise ValueError("no ballots: a consensus needs at least one member")
    return [total / count for total in totals]


def cosine(explanation: Tensor, consensus: Tensor) -> Tensor:
    r"""<a, c> / (||a|| ||c||) of a member's signed explanation (..., K) and the consensus (K,), in -1..1.

    0 where either is zero: such an explanation points nowhere.
    """
    norms = torch.linalg.vector_norm(explanation, dim=-1) * torch.linalg.vector_norm(consensus, dim=-1)
    return torch.where(norms > 0, (explanation * consensus).sum(-1) / norms, 0.0)


def cosine_squared(explanation: Tensor, consensus: Tensor) -> Tensor:
    """`cosine` of the squared explanation, as squares vote, and the consensus."""
    return cosine(explanation.square(), consensus)


def rbf(explanation: Tensor, consensus: Tensor, sigma: float) -> Tensor:
    r"""exp(-(||a - c|| / sigma)^2 / 2) of a member's min-max-normalised explanation and the consensus, in 0..1."""
    return rbf_raw(min_max(explanation), consensus, sigma)


def rbf_raw(explanation: Tensor, consensus: Tensor, sigma: float) -> Tensor:
    """`rbf` of the explanation as it is, which Algorithm 1 passes to SIMILARITY: its scale is that of gradients."""
    distance = torch.linalg.vector_norm(explanation - consensus, dim=-1)
    return torch.exp(-(distance / sigma).square() / 2)


VOTES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "normalised_squares": normalised_squares,
    "min_max": min_max,
    "squares": squares,
    "signed": signed,
    "positive": positive,
}


def ballot_of(vote: str) -> Callable[[Tensor], Tensor]:
    """The ballot of a vote's name, or of own code: explanations (..., K) to ballots of the same shape.

    Explanations are float64, or float32 where they are stored in float16.

    Raises InputError for an unknown name.
    """
    if own_code.is_own(vote):
        ballot: Callable[[Tensor], Tensor] = own_code.load(vote, "explainer.vote")
        return ballot
    if vote not in VOTES:
        raise InputError(f"explainer.vote={vote} is unknown{nearest(vote, VOTES)}")
    return VOTES[vote]


@dataclass(frozen=True)
class Similarity:
    """A similarity by name: ``cosine`` or ``cosine_squared``, or ``rbf`` and ``rbf_raw`` whose ``sigma`` holds for maps
    of ``sigma_pixels`` values.

    The distance between two maps grows with the square root of their number of pixels, so sigma is scaled by
    sqrt(K / sigma_pixels): the same root-mean-square difference a pixel gives the same score at every size.
    """

    name: str
    sigma: float = 5.0
    sigma_pixels: int = 224 * 224

    def __call__(self, explanation: Tensor, consensus: Tensor) -> Tensor:
        """Similarity (...) of explanations (..., K) to the consensus, (K,) or (..., K)."""
        if not self.has_sigma:
            return (cosine_squared if self.name == "cosine_squared" else cosine)(explanation, consensus)
        return (rbf_raw if self.name == "rbf_raw" else rbf)(explanation, consensus, self._scaled(consensus.shape[-1]))

    def to_means(self, explanations: Tensor, ballots: Tensor, weights: Tensor) -> Tensor:
        """Similarities (t, f) of explanations (f, K) to t consensuses, each a mean of ballots, weights (t, m) @ (m, K).

        Only inner products of the (f + m) vectors are taken over the K dimensions: beyond those, a committee costs
        m * (m + f) multiplications whatever K is, so thousands of committees of pixel maps take seconds. float64.
        """
        own = self.compared(explanations)
        dots = weights @ (ballots @ own.T)
        squares = ((weights @ (ballots @ ballots.T)) * weights).sum(1, keepdim=True)
        own_squares = own.square().sum(1)
        if not self.has_sigma:
            norms = (squares * own_squares).sqrt()
            return torch.where(norms > 0, dots / norms, 0.0)
        distances = (squares - 2 * dots + own_squares).clamp_min(0)
        return torch.exp(-distances / (2 * self._scaled(ballots.shape[1]) ** 2))

    def of_pairs(self, explanations: Tensor) -> Tensor:
        """Similarities (m, m) of explanations (m, K) to each other, each as it is compared with a consensus."""
        whose = torch.eye(len(explanations), dtype=explanations.dtype)
        return self.to_means(explanations, self.compared(explanations), whose)

    def compared(self, explanations: Tensor) -> Tensor:
        """What of explanations (..., K) is compared with the consensus."""
        if self.name == "cosine_squared":
            return explanations.square()
        return min_max(explanations) if self.name == "rbf" else explanations

    @property
    def has_sigma(self) -> bool:
        """Whether it is one by the RBF."""
        return self.name.startswith("rbf")

    def _scaled(self, pixels: int) -> float:
        return float(self.sigma * (pixels / self.sigma_pixels) ** 0.5)


SIMILARITIES = ("cosine", "cosine_squared", "rbf", "rbf_raw")
