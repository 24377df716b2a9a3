"""How perturbations are drawn, how many, and in which batches."""

import math
from functools import cache

import torch
from torch import Tensor

from xconsensus.errors import InputError, check_type

SAMPLINGS = ("iid", "hadamard")


def draw_masks(samples: int, superpixels: int, sampling: str, keep: float, generator: torch.Generator) -> Tensor:
    """Masks (samples, superpixels), bool, True where a superpixel is visible.

    Parameters
    ----------
    samples, superpixels : how many masks, and of how many superpixels.
    sampling : iid, independent draws; or hadamard, pairs of a mask and its complement, of rows of a Hadamard matrix
        with random columns, signs and order of rows, a two-level design with fold-over (Plackett and Burman 1946,
        doi:10.1093/biomet/33.4.305), so that effects of single superpixels alias neither with each other nor with
        effects of even order.
    keep : the probability that iid shows a superpixel; hadamard shows each in half of the masks.
    generator : of the draws.
    """
    if sampling == "iid":
        return torch.rand(samples, superpixels, generator=generator) < keep
    rows = torch.empty(0, superpixels, dtype=torch.bool)
    while 2 * len(rows) < samples:
        rows = torch.cat([rows, _hadamard_rows(superpixels, generator)])
    return _with_complements(rows, samples)


def draw_population(samples: int, superpixels: int, keep: float, generator: torch.Generator) -> Tensor:
    """Masks (samples, superpixels), bool, independent with probability ``keep``; of one half, each followed by its
    complement, as KernelSHAP draws coalitions (Covert and Lee 2021, arXiv:2012.01536).
    """
    if keep != 0.5:
        return draw_masks(samples, superpixels, "iid", keep, generator)
    return _with_complements(torch.rand(-(-samples // 2), superpixels, generator=generator) < 0.5, samples)


def _with_complements(masks: Tensor, samples: int) -> Tensor:
    """The first ``samples`` of the masks, each followed by its complement."""
    return torch.stack([masks, ~masks], dim=1).flatten(0, 1)[:samples]


def _hadamard_rows(superpixels: int, generator: torch.Generator) -> Tensor:
    """All rows, in random order, of as many random columns of a Hadamard matrix, each with a random sign."""
    matrix = _hadamard(superpixels + 1)  # a column for each, and the constant one
    columns = 1 + torch.randperm(len(matrix) - 1, generator=generator)[:superpixels]
    rows = torch.randperm(len(matrix), generator=generator)
    return matrix[rows][:, columns] ^ torch.randint(2, (superpixels,), generator=generator).bool()


@cache
def _hadamard(least: int) -> Tensor:
    """A Hadamard matrix of an order of at least ``least``, bool, the first column True.

    The smallest that Paley's first construction (1933, doi:10.1002/sapm1933121311) with a prime, or none, gives after
    doubling: 12, 20, 24, 44, 48, 60, 72 ... besides the powers of two.
    """
    primes = [q for q in range(3, 2 * least, 4) if all(q % d for d in range(3, int(q**0.5) + 1, 2))]
    start = min([1, *(q + 1 for q in primes)], key=lambda order: order * 2 ** _doublings(order, least))
    matrix = torch.ones(start, start, dtype=torch.bool)
    if start > 1:
        squares = torch.zeros(start - 1, dtype=torch.bool)
        squares[torch.arange(1, start - 1) ** 2 % (start - 1)] = True
        differences = torch.arange(start - 1) - torch.arange(start - 1)[:, None]
        matrix[1:, 1:] = squares[differences % (start - 1)]
    for _ in range(_doublings(start, least)):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, ~matrix], 1)])
    return matrix


def _doublings(order: int, least: int) -> int:
    return max(0, math.ceil(math.log2(least / order)))


def sample_counts(samples: int, tolerance: float | None) -> list[int]:
    """Numbers of samples after which an explanation may stop: ``samples``, or from a quarter to four times as many."""
    if tolerance is None:
        return [samples]
    return [max(2, samples // 4), max(3, samples // 2), max(4, samples), max(8, 2 * samples), max(16, 4 * samples)]


def check_tolerance(tolerance: float | None) -> None:
    """InputError unless ``tolerance`` is a reliability that can be reached."""
    if tolerance is None:
        return
    check_type("explainer.tolerance", tolerance, 0.9)
    if not 0 < tolerance < 1:
        raise InputError(f"explainer.tolerance={tolerance} is not between 0 and 1")


def even_batches(rows: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """``rows`` in the fewest batches of at most ``batch_size``, whose sizes differ by one at most."""
    return torch.tensor_split(rows, -(-len(rows) // batch_size))
