"""What a consensus owes to its committee: random committees (section 4.5.2) and growing ones (section 4.5.3)."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus.errors import InputError
from xconsensus.metrics import average_precisions, correlation

Floats = NDArray[np.floating]

# Committees x dimensions evaluated at once: bounds memory where a dimension is a pixel.
_BLOCK = 2**21


def growing_committees(
    votes: Sequence[Floats],
    positives: Sequence[NDArray[np.generic]],
    counts: Sequence[NDArray[np.generic] | None],
    sizes: Sequence[int],
    trials: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean average precision of random committees of each size (Fig. 8; Li et al. 2023, section 4.5.3).

    Parameters
    ----------
    votes : one (m, K_i) array an image: the members' normalised votes; a committee's mean is its consensus.
    positives, counts : one an image, as in `metrics.average_precision`: (K_i,) pixels inside the object, and
        (K_i,) pixels in all, or None where a dimension is a pixel.
    sizes : members a committee, each 1..m; repeats are dropped.
    trials : committees a size; the full committee exists once, so size m has one trial.

    Returns one row a committee: size, trial (0, 1, ...), mean_average_precision, in [0, 1]. Committees are drawn
    without replacement, and each stays the same for all images. Images without an object are left out.

    Raises InputError if there is no image, a size is not within 1..m, or images differ in their members.
    """
    members = _members(votes)
    committees = _draw(members, sorted(set(sizes)), trials, seed)
    selection = _means(members, [chosen for _, _, chosen in committees])
    total, images = np.zeros(len(committees)), 0
    for image_votes, inside, pixels in zip(votes, positives, counts, strict=True):
        if not np.any(inside):
            continue
        blocks = np.array_split(selection, -(-selection.shape[0] * image_votes.shape[1] // _BLOCK))
        total += np.concatenate([average_precisions(part @ image_votes, inside, pixels) for part in blocks])
        images += 1
    if images == 0:
        raise InputError("growing committees: no image has an object mask; choose a data set with masks")
    rows = [(size, trial, ap) for (size, trial, _), ap in zip(committees, total / images, strict=True)]
    return pd.DataFrame(rows, columns=["size", "trial", "mean_average_precision"])


def random_committees(
    votes: Sequence[Floats],
    explanations: Sequence[Floats],
    similarity: Callable[[Floats, Floats], Floats],
    family: Sequence[int],
    extras: tuple[int, int] = (10, 20),
    trials: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Do a family's consensus scores survive a change of committee (Li et al. 2023, section 4.5.2)?

    Each committee is the family plus between extras[0] and extras[1] members drawn from the rest.

    Parameters
    ----------
    votes : one (m, K_i) array an image, as in `growing_committees`.
    explanations : one (m, K_i) array an image: what `similarity` compares with the consensus.
    similarity : (family's explanations (f, K_i), consensus (K_i,)) -> (f,).
    family : positions of the family's members, 0..m-1.

    Returns one row a committee: trial, size, and pearson_r and spearman_r of the family's consensus scores with
    those under the full committee.

    Raises InputError if there is no image, or the rest has fewer than extras[1] members.
    """
    members = _members(votes)
    rest = np.setdiff1d(np.arange(members), family)
    if extras[1] > len(rest):
        raise InputError(
            f"random committees: {extras[1]} members asked for beside the family, {len(rest)} exist; lower extras"
        )
    generator = np.random.default_rng(seed)
    committees = [np.arange(members)]
    for _ in range(trials):
        extra = generator.choice(rest, generator.integers(extras[0], extras[1] + 1), replace=False)
        committees.append(np.concatenate([np.asarray(family), extra]))
    selection = _means(members, committees)
    scores = np.zeros((len(committees), len(family)))
    for image_votes, image_explanations in zip(votes, explanations, strict=True):
        own = image_explanations[np.asarray(family)]
        scores += np.stack([similarity(own, consensus) for consensus in selection @ image_votes])
    rows = []
    for trial, (committee, score) in enumerate(zip(committees[1:], scores[1:], strict=True)):
        agreement = correlation(score, scores[0])
        rows.append((trial, len(committee), agreement.pearson_r, agreement.spearman_r))
    return pd.DataFrame(rows, columns=["trial", "size", "pearson_r", "spearman_r"])


def _members(votes: Sequence[Floats]) -> int:
    if len(votes) == 0:
        raise InputError("committees: no image to vote on; explain some images first")
    counts = {len(image_votes) for image_votes in votes}
    if len(counts) > 1:
        raise InputError(f"committees: images have {sorted(counts)} members; give every image the same members")
    return counts.pop()


def _draw(members: int, sizes: Sequence[int], trials: int, seed: int) -> list[tuple[int, int, NDArray[np.integer]]]:
    committees: list[tuple[int, int, NDArray[np.integer]]] = []
    for size in sizes:
        if not 1 <= size <= members:
            raise InputError(f"growing committees: size {size} of {members} members; choose 1..{members}")
        # Seeded by size too: adding a size to the list leaves the other committees as they were.
        generator = np.random.default_rng([seed, size])
        committees += [
            (size, trial, generator.choice(members, size, replace=False))
            for trial in range(1 if size == members else trials)
        ]
    return committees


def _means(members: int, committees: Sequence[NDArray[np.integer]]) -> Floats:
    """(T, m) matrix whose product with votes (m, K) is each committee's consensus."""
    selection = np.zeros((len(committees), members))
    for row, chosen in zip(selection, committees, strict=True):
        row[chosen] = 1 / len(chosen)
    return selection
