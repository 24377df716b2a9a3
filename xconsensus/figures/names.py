"""Names beside points, without covering points or each other."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from xconsensus.figures.style import INK, SMALL

Box = tuple[float, float, float, float]

# Offsets from the point, in points: beside it first, then around it, then farther away with a leader line.
_NEAR = [(6, 0), (-6, 0), (0, 5), (0, -5), (5, 4), (-5, 4), (5, -4), (-5, -4)]
_PLACES = _NEAR + [(scale * dx, scale * dy) for scale in (1.7, 2.5, 3.3, 4.5, 6, 8) for dx, dy in _NEAR]
_LEADER = {"arrowstyle": "-", "linewidth": 0.4, "color": "#777777", "shrinkA": 0, "shrinkB": 2.5}


def write_names(axes: Axes, points: NDArray[np.floating], names: Sequence[str]) -> None:
    """Annotate points (n, 2), in data units, with their names: each at the first free of several places near.

    A name that fits nowhere inside the axes is left out. The figure must be laid out and its limits be final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72
    bounds = _box(axes.bbox.extents)
    places = axes.transData.transform(points)
    taken = [_box(np.r_[place - 4 * pixel, place + 4 * pixel]) for place in places]
    taken += [_box(text.get_window_extent().extents) for text in axes.texts]
    # The crowded choose first: they have the fewest free places.
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag(np.full(len(places), np.inf))
    for index in np.argsort(gaps.min(axis=0), kind="stable"):
        place, name = places[index], names[index]
        others = [box for number, box in enumerate(taken) if number != index]
        trial = axes.text(0, 0, name, fontsize=SMALL)
        extent = np.array(trial.get_window_extent().size)
        trial.remove()
        for number, offset in enumerate(_PLACES):
            side = np.sign(offset)
            start = place + np.array(offset) * pixel
            low = start + extent * (side - 1) / 2
            box = _box(np.r_[low, low + extent])
            leader = [_box(np.r_[p, p]) for p in np.linspace(place, start, 12)[1:]] if number >= len(_NEAR) else []
            fits = _inside(box, bounds) and not any(_overlap(new, old) for new in (box, *leader) for old in others)
            # Without a leader line, a name must be nearer to its own point than to any other.
            if fits and (leader or np.argmin([_distance(box, point) for point in places]) == index):
                break
        else:
            continue
        taken += [box, *leader]
        axes.annotate(
            name,
            tuple(points[index]),
            xytext=offset,
            textcoords="offset points",
            ha=("right", "center", "left")[int(side[0]) + 1],
            va=("top", "center", "bottom")[int(side[1]) + 1],
            fontsize=SMALL,
            color=INK,
            arrowprops=_LEADER if leader else None,
        )


def _distance(box: Box, point: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(point - np.clip(point, box[:2], box[2:])))


def _box(extents: Iterable[float]) -> Box:
    left, low, right, high = map(float, extents)
    return left, low, right, high


def _inside(box: Box, bounds: Box) -> bool:
    return box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
