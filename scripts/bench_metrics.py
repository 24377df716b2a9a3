"""Average precision beside scikit-learn's, and the growing-committee experiment with its cost.

Usage: python scripts/bench_metrics.py [IMAGES], the images of the whole experiment, 200 unless given.
Maps are synthetic. Needs the extra `test`.
"""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from benchmark import seconds, show
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from xconsensus.scores.committees import growing_committees
from xconsensus.scores.metrics import average_precision

SIDE, SUPERPIXELS = 224, 64
RNG = np.random.default_rng(0)


def object_mask(side: int) -> NDArray[np.bool_]:
    """A disc in the middle."""
    grid = np.abs(np.arange(side) - side / 2)
    return np.asarray(np.hypot(grid, grid[:, None]) < side / 3).ravel()


def against_scikit_learn() -> list[dict[str, object]]:
    """One row a kind of map."""
    mask = object_mask(SIDE)
    segments = RNG.integers(0, SUPERPIXELS, SIDE**2)
    inside, pixels = np.bincount(segments, weights=mask), np.bincount(segments)
    weights = RNG.normal(size=SUPERPIXELS).astype(np.float32)
    signal = RNG.gamma(1, size=SIDE**2) + mask
    cases = {
        f"LIME, {SUPERPIXELS} superpixels": (weights[segments], (weights, inside, pixels), 500),
        "pixels, float16 as stored": (signal.astype(np.float16), (signal.astype(np.float16), mask), 50),
        "pixels, float32": (signal.astype(np.float32), (signal.astype(np.float32), mask), 50),
    }
    rows: list[dict[str, object]] = []
    for name, (painted, arguments, times) in cases.items():
        own = seconds(partial(average_precision, *arguments), times)
        other = seconds(partial(average_precision_score, mask, painted), 20)
        gap = abs(average_precision(*arguments) - average_precision_score(mask, painted))
        rows.append(
            {"maps": name, "ms": 1e3 * own, "scikit-learn, ms": 1e3 * other, "ratio": other / own, "difference": gap}
        )
    return rows


def images_of(members: int, images: int, side: int | None) -> Iterator[tuple[NDArray[Any], Any, Any]]:
    """Ballots of an image and its object: of pixels, or of superpixels for side None."""
    for _ in range(images):
        if side:
            yield RNG.random((members, side**2), dtype=np.float32), object_mask(side), None
        else:
            pixels = RNG.integers(100, 1500, SUPERPIXELS)
            yield RNG.random((members, SUPERPIXELS)), RNG.integers(0, pixels), pixels


def growing(members: int, trials: int, sizes: int, images: int, side: int | None) -> float:
    """Seconds of the experiment."""
    chosen = np.linspace(1, members, sizes).round().astype(int).tolist()
    return seconds(lambda: growing_committees(images_of(members, images, side), members, chosen, trials))


def main() -> None:
    """Print the tables."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    images = int(sys.argv[1]) if sys.argv[1:] else 200
    show("average precision of a map of 224x224", against_scikit_learn())
    cost = []
    few = max(2, images // 10)
    for members, trials, side in (
        *((members, 20, SIDE) for members in (10, 21, 42, 85)),
        *((85, trials, SIDE) for trials in (3, 5, 10)),
        *((85, 20, side) for side in (28, 56, 112)),
    ):
        spent = growing(members, trials, 20, few, side) / few
        cost.append({"members": members, "trials": trials, "pixels": side**2, "ms an image": 1e3 * spent})
    show("growing committees, 20 sizes", cost)
    whole = {name: growing(85, 20, 20, images, side) for name, side in (("LIME", None), ("pixels 224x224", SIDE))}
    title = f"growing committees: 85 members, 20 trials of 20 sizes, {images} images"
    show(title, [{"maps": name, "seconds": spent} for name, spent in whole.items()])


if __name__ == "__main__":
    main()
