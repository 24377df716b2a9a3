"""Names beside points, without covering points or each other.

All geometry is in pixels. A box is (left, low, right, high), a line (x, y, x, y); arrays of both are (n, 4), and a
row of NaN is a line that is not there: no comparison with it is true.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from xconsensus.figures.style import INK, SMALL

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Where a name without a leader line begins, seen from its point: right, left, above, below, then between, (d, 2).
_ANGLES = [0, 180, 90, 270, *(angle for angle in range(0, 360, 15) if angle % 90)]
_DIRECTIONS = np.array([(np.cos(angle), np.sin(angle)) for angle in np.radians(_ANGLES)])
_NEAR, _FAR, _FARTHEST = 1.5, 4.0, 80.0  # points from the marker's edge: without a leader line, and with one
_INTO = 1.5  # points that a leader line reaches into the marker
# What a place costs, in points of distance: a less usual direction, a leader line at all, an interval struck through
# or crossed by a leader line, another member's point beside the name or under its leader line; to take another's place.
_ASIDE, _LEADER, _STRUCK, _CROSSED, _BESIDE, _THROUGH, _LEAVING = 0.05, 4.0, 15.0, 3.0, 8.0, 60.0, 100.0
_CLEAR = 2.0  # points by which a name without a leader line is nearer to its own point than to any other
_FEW = 30  # so few names may all fit, if even extremes make room
_PLACEMENTS = 300  # after so many the names without a place are left out
_TRIED = 15  # places of a name that are tried in exchange for its own


class Label(NamedTuple):
    """A name, its point in data units, and half the width of the point's marker, in points; bold ones are first."""

    name: str
    x: float
    y: float
    radius: float = 4.0
    bold: bool = False


class _Places(NamedTuple):
    """Where a name can stand: boxes (c, 4), leader lines (c, 4), NaN where there is none, and costs (c,)."""

    boxes: Floats
    leaders: Floats
    costs: Floats


def write_names(axes: Axes, labels: Sequence[Label]) -> list[str]:
    """Name points: each name beside its point, or tied to it by a thin line; return the names that do not fit.

    No name covers a point, another name, a leader line or the axes' edge, and it strikes intervals (line
    collections) only where it must. The bold and the four extremes come first, then the most isolated. The figure
    must be laid out and its limits be final.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return []
    pixel = figure.dpi / 72
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    radii = pixel * np.array([label.radius for label in labels])
    sizes, bars, bounds = _sizes(axes, labels), _intervals(axes), np.array(axes.bbox.extents)
    first = _extremes(labels, points)
    places = [_places(i, i in first, points, radii, size, bars, bounds, pixel) for i, size in enumerate(sizes)]
    taken = _assign(places, first, [index for index in _isolated(points) if index not in first])
    for label, own, place in zip(labels, places, taken, strict=True):
        if place >= 0:
            _write(axes, label, own.boxes[place], own.leaders[place], pixel)
    return [label.name for label, place in zip(labels, taken, strict=True) if place < 0]


def _sizes(axes: Axes, labels: Sequence[Label]) -> Floats:
    """Width and height of each name in pixels, (n, 2), a pixel of air around it included."""
    trial = axes.text(0, 0, "", parse_math=False, fontsize=SMALL)
    sizes = []
    for label in labels:
        trial.set(text=label.name, fontweight="bold" if label.bold else "normal")
        sizes.append(np.add(trial.get_window_extent().size, 2))
    trial.remove()
    return np.array(sizes)


def _intervals(axes: Axes) -> Floats:
    """The drawn intervals as boxes without width, (n, 4)."""
    ends = [lines.get_segments() for lines in axes.collections if isinstance(lines, LineCollection)]
    found = [axes.transData.transform(segment) for segments in ends for segment in segments]
    return np.array([[*segment.min(0), *segment.max(0)] for segment in found]).reshape(-1, 4)


def _extremes(labels: Sequence[Label], points: Floats) -> list[int]:
    """The bold, and the first and last in x and in y."""
    bold = [index for index, label in enumerate(labels) if label.bold]
    return list(dict.fromkeys([*bold, *points.argmin(axis=0).tolist(), *points.argmax(axis=0).tolist()]))


def _isolated(points: Floats) -> list[int]:
    """All points, by their distance to the next one, the most distant first."""
    gaps = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(gaps, np.inf)
    return [int(index) for index in np.argsort(-gaps.min(axis=0), kind="stable")]


def _places(
    index: int, first: bool, points: Floats, radii: Floats, size: Floats, bars: Floats, bounds: Floats, pixel: float
) -> _Places:
    """The places that one name can take as far as no other name matters.

    The leader lines of the ``first`` may be long and pass through other points.
    """
    point, others, reach = points[index], np.delete(points, index, axis=0), np.delete(radii, index)
    beside, afar = _beside(point, radii[index] + pixel * _NEAR, size), _grid(bounds, size)
    boxes = np.concatenate([beside, afar])
    costs = np.concatenate([_ASIDE * np.arange(len(beside)), np.full(len(afar), _LEADER)])
    tied = np.arange(len(boxes)) >= len(beside)
    nearest = np.clip(point, boxes[:, :2], boxes[:, 2:])
    lengths = np.linalg.norm(nearest - point, axis=1)
    markers = np.concatenate([points - radii[:, None], points + radii[:, None]], axis=1)
    free = (boxes[:, :2] >= bounds[:2]).all(axis=1) & (boxes[:, 2:] <= bounds[2:]).all(axis=1)
    free &= ~tied | (lengths > radii[index] + pixel * _FAR) & (first | (lengths < radii[index] + pixel * _FARTHEST))
    free[free] = ~_overlap(boxes[free], markers).any(axis=1)
    boxes, costs, tied, nearest, lengths = boxes[free], costs[free], tied[free], nearest[free], lengths[free]

    leaders = np.concatenate([np.broadcast_to(point, nearest.shape), nearest], axis=1)
    leaders[~tied] = np.nan
    gaps = _distances(boxes, others).min(axis=1, initial=np.inf)
    markers = np.delete(markers, index, axis=0)
    crossed = _cross(leaders, markers)
    # A marker that covers the point's own cannot be avoided, but its centre be farther from the leader line's end.
    apart = np.linalg.norm(others - point, axis=1) > reach + radii[index]
    inner = radii[index] - pixel * _INTO
    ends = point + (nearest - point) * (inner / np.maximum(lengths, inner))[:, None]
    ends_apart = _distances(np.concatenate([ends, ends], axis=1), others).min(axis=1, initial=np.inf) >= inner
    free = (first | ~crossed[:, apart].any(axis=1)) & np.where(tied, ends_apart, gaps > lengths + pixel * _CLEAR)
    costs += tied * lengths / pixel + _THROUGH * crossed.sum(axis=1)
    costs += _BESIDE * (gaps < radii[index] + 2 * pixel * _CLEAR)
    costs += _STRUCK * _overlap(boxes, bars).sum(axis=1) + _CROSSED * _cross(leaders, bars).sum(axis=1)
    return _Places(boxes[free], leaders[free], costs[free])


def _beside(point: Floats, distance: float, size: Floats) -> Floats:
    """Boxes at a distance from a point, (d, 4): its side looks at the point, where the direction is straight."""
    low = point + distance * _DIRECTIONS + size * (np.clip(1.5 * _DIRECTIONS, -1, 1) - 1) / 2
    return np.concatenate([low, low + size], axis=1)


def _grid(bounds: Floats, size: Floats) -> Floats:
    """Boxes all over the axes, (g, 4), in rows that overlap by half."""
    x = np.arange(bounds[0], bounds[2] - size[0], size[1])
    y = np.arange(bounds[1], bounds[3] - size[1], size[1] / 2)
    low = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return np.concatenate([low, low + size], axis=1)


def _assign(places: Sequence[_Places], first: Sequence[int], order: Sequence[int]) -> NDArray[np.int_]:
    """The place that each name takes, (n,), -1 where none is free: all of ``first``, then the most, at the least cost.

    Each in turn takes the place that costs least, and others must leave theirs if it has no other and look for a new
    one; this costs the more, the more often they had to. Then they exchange places where that is cheaper.
    """
    taken, best = np.full((2, len(places)), -1)
    prices = np.full(len(places), _LEAVING)
    prices[first] *= 3 if len(places) <= _FEW else np.inf
    worth = np.ones(len(places))
    worth[first] = len(places)
    waiting = deque([*first, *order])
    for _ in range(_PLACEMENTS):
        if not waiting:
            break
        index = waiting.popleft()
        met = _met(index, places, taken)
        costs = places[index].costs + np.where(met, prices, 0).sum(axis=1)
        place = int(np.argmin(costs)) if len(costs) else -1
        if place < 0 or np.isinf(costs[place]):
            continue
        leaving = np.flatnonzero(met[place])
        taken[leaving], taken[index] = -1, place
        prices[leaving] += _LEAVING
        waiting.extend(leaving.tolist())
        if worth[taken >= 0].sum() > worth[best >= 0].sum():
            best = taken.copy()
    for index in [*first, *order]:
        best[index] = _cheapest(index, places, best)
    for index in np.flatnonzero(best >= 0).tolist():
        best = _exchanged(index, places, best)
    return best


def _cheapest(index: int, places: Sequence[_Places], taken: NDArray[np.int_]) -> int:
    """The cheapest place of a name that is free, -1 where none is."""
    costs = np.where(_met(index, places, taken).any(axis=1), np.inf, places[index].costs)
    return int(np.argmin(costs)) if np.isfinite(costs).any() else -1


def _exchanged(index: int, places: Sequence[_Places], taken: NDArray[np.int_]) -> NDArray[np.int_]:
    """The places (n,) after a name took a cheaper one, if those who must leave find others and all gain by it."""
    costs, met = places[index].costs, _met(index, places, taken)
    for place in np.argsort(costs, kind="stable")[:_TRIED]:
        if costs[place] >= costs[taken[index]]:
            break
        new, leaving = taken.copy(), np.flatnonzero(met[place]).tolist()
        new[leaving], new[index] = -1, place
        for other in leaving:
            new[other] = _cheapest(other, places, new)
        gain = costs[taken[index]] - costs[place]
        loss = sum(places[i].costs[new[i]] - places[i].costs[taken[i]] for i in leaving)
        if (new[leaving] >= 0).all() and loss < gain:
            return new
    return taken


def _met(index: int, places: Sequence[_Places], taken: NDArray[np.int_]) -> Bools:
    """Which places of a name (c) meet the name or leader line of which others (n), at the places these take: (c, n)."""
    own = places[index]
    there = [number for number, place in enumerate(taken) if place >= 0 and number != index]
    met = np.zeros((len(own.costs), len(taken)), dtype=bool)
    if there:
        boxes = np.array([places[number].boxes[taken[number]] for number in there])
        leaders = np.array([places[number].leaders[taken[number]] for number in there])
        met[:, there] = _overlap(own.boxes, boxes) | _cross(own.leaders, boxes)
        met[:, there] |= _cross(leaders, own.boxes).T | _meet(own.leaders, leaders)
    return met


def _write(axes: Axes, label: Label, box: Floats, leader: Floats, pixel: float) -> None:
    """The name in the middle of its box, and its leader line from the box to the edge of the point."""
    point = axes.transData.transform((label.x, label.y))
    tie = {
        "arrowstyle": "-",
        "linewidth": 0.4,
        "color": "#777777",
        "patchA": None,
        "shrinkA": 0,
        "shrinkB": label.radius - _INTO,
        "relpos": (leader[2:] - box[:2]) / (box[2:] - box[:2]),
    }
    axes.annotate(
        label.name,
        (label.x, label.y),
        xytext=((box[:2] + box[2:]) / 2 - point) / pixel,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=SMALL,
        fontweight="bold" if label.bold else "normal",
        color=INK,
        parse_math=False,
        # what lies behind ends at the name and does not strike it through
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        arrowprops=None if np.isnan(leader[0]) else tie,
    )


def _distances(boxes: Floats, points: Floats) -> Floats:
    """How far each of (m, 2) points is from each of (n, 4) boxes: (n, m), 0 within."""
    left, low, right, high = boxes.T[..., None]
    x, y = points.T
    return np.asarray(np.hypot(x - np.clip(x, left, right), y - np.clip(y, low, high)))


def _overlap(boxes: Floats, others: Floats) -> Bools:
    """Which of (n, 4) boxes share area with which of (m, 4), or are struck through where these are lines: (n, m)."""
    left, low, right, high = boxes.T[..., None]
    other_left, other_low, other_right, other_high = others.T
    return np.asarray((left < other_right) & (other_left < right) & (low < other_high) & (other_low < high))


def _cross(lines: Floats, boxes: Floats) -> Bools:
    """Which of (n, 4) lines pass through which of (m, 4) boxes, which may be lines themselves: (n, m)."""
    x, y, end_x, end_y = lines.T[..., None]
    left, low, right, high = boxes.T
    with np.errstate(divide="ignore", invalid="ignore"):
        x_ends = (left - x) / (end_x - x), (right - x) / (end_x - x)
        y_ends = (low - y) / (end_y - y), (high - y) / (end_y - y)
    enter = np.maximum(np.minimum(*x_ends), np.minimum(*y_ends))
    leave = np.minimum(np.maximum(*x_ends), np.maximum(*y_ends))
    return np.asarray(np.maximum(enter, 0) <= np.minimum(leave, 1))


def _meet(lines: Floats, others: Floats) -> Bools:
    """Which of (n, 4) lines cross which of (m, 4): (n, m)."""
    a, b, c, d = lines.T[:2, :, None], lines.T[2:, :, None], others.T[:2, None], others.T[2:, None]
    apart = _turn(a, b, c) * _turn(a, b, d) < 0
    return np.asarray(apart & (_turn(c, d, a) * _turn(c, d, b) < 0))


def _turn(start: Floats, end: Floats, point: Floats) -> Floats:
    """Positive where a point lies left of the way from start to end, negative where right; x and y come first."""
    way, there = end - start, point - start
    return np.asarray(way[0] * there[1] - way[1] * there[0])
