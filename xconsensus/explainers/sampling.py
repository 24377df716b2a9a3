"""How perturbations are drawn, how many, and in which batches."""

import torch
from torch import Tensor

from xconsensus.errors import InputError, check_type

SAMPLINGS = ("iid", "paired", "hadamard")


def draw_masks(samples: int, superpixels: int, sampling: str, keep: float, generator: torch.Generator) -> Tensor:
    """Masks (samples, superpixels), bool, True where a superpixel is visible.

    iid: independent with probability ``keep``. paired: each mask is followed by its complement, as KernelSHAP draws
    coalitions (Covert and Lee 2021, arXiv:2012.01536), so that effects of even order do not alias with single
    superpixels. hadamard: pairs too, of rows of a Hadamard matrix with random columns, signs and order of rows, a
    two-level design with fold-over (Plackett and Burman 1946, doi:10.1093/biomet/33.4.305), so that effects of
    single superpixels do not alias with each other either. Both show each superpixel in half of the masks.
    """
    if sampling == "iid":
        return torch.rand(samples, superpixels, generator=generator) < keep
    pairs = -(-samples // 2)
    if sampling == "paired":
        halves = torch.rand(pairs, superpixels, generator=generator) < 0.5
    else:
        order = 2 ** int(superpixels).bit_length()  # columns besides the constant one: at least as many as superpixels
        designs = [_hadamard_rows(order, superpixels, generator) for _ in range(-(-pairs // order))]
        halves = torch.cat(designs)[:pairs]
    return torch.stack([halves, ~halves], dim=1).flatten(0, 1)[:samples]


def _hadamard_rows(order: int, columns: int, generator: torch.Generator) -> Tensor:
    """All rows, in random order, of random columns of Sylvester's Hadamard matrix, each with a random sign."""
    chosen = 1 + torch.randperm(order - 1, generator=generator)[:columns]
    rows = torch.randperm(order, generator=generator)
    # entry (r, c) of the matrix is the parity of the bits that r and c share
    shared = rows[:, None] & chosen
    parity = torch.zeros_like(shared)
    while shared.any():
        parity ^= shared & 1
        shared = shared >> 1
    return (parity ^ torch.randint(2, (columns,), generator=generator)).bool()


def steps(samples: int, tolerance: float | None) -> list[int]:
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
