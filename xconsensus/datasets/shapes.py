"""Embedded data set: a patterned shape, or some, on a cluttered photograph, with their exact masks.

Nothing is downloaded: the objects are drawn, and the backgrounds are cut from the photographs that
scikit-image carries inside its own wheel. A class is a pattern and a shape together ("striped-disc"), and
every pattern meets every shape, so neither cue alone names the class; colours, position, size, tilt and
background are drawn independently of it. How hard the images are is set by the ranges of the draws: networks
of a few million multiplications an image, trained for seconds, come out anywhere between poor and good.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import skimage
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from xconsensus.datasets.records import Record
from xconsensus.errors import InputError

PATTERNS = ("checked", "dotted", "gridded", "rayed", "ringed", "striped")
SHAPES = ("cross", "disc")

# Members see the central 64/73 of an image, as the paper cuts 224 from 256: objects stay inside it.
VISIBLE = 64 / 73

_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)
_SUPERSAMPLING = 2

_Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class _Object:
    """What is drawn of an object besides its class; lengths in image sides, angles in radians."""

    centre: _Floats
    radius: float
    stretch: float
    tilt: float
    period: float
    pattern_tilt: float
    colours: _Floats


class Shapes:
    """Drawn images of single objects in 12 classes, each with the mask of its object.

    Every image is a function of (seed, image id, label) alone: splits are disjoint draws, and neither the
    order of calls nor the process matters. Another size changes the resolution, not the scene.
    ``seed`` is 0 or more, ``resize`` the side of the square images in pixels, ``splits`` the number of images
    of each split. With ``objects`` 2 to 4 an image has that many smaller ones, of different classes, and its label
    is -1: no single class is right.

    Raises InputError for a negative seed, images below 16 pixels, other numbers of objects and a negative number of
    images.
    """

    classes: tuple[str, ...] = tuple(f"{pattern}-{shape}" for pattern in PATTERNS for shape in SHAPES)
    has_masks = True
    image_keys = ("seed", "objects", "resize")
    mask_keys = ()

    def __init__(self, *, seed: int, resize: int = 73, objects: int = 1, splits: Mapping[str, int]) -> None:
        if seed < 0:
            raise InputError(f"dataset.seed={seed}: give 0 or more")
        if resize < 16:
            raise InputError(f"dataset.resize={resize}: give 16 pixels or more")
        for split, number in splits.items():
            if number < 0:
                raise InputError(f"dataset.splits.{split}={number}: give a number of images, 0 or more")
        if not 1 <= objects <= 4:
            raise InputError(f"dataset.objects={objects}: give 1 to 4")
        self.seed = seed
        self.resize = resize
        self.objects = objects
        self.splits = dict(splits)

    def records(self, split: str) -> list[Record]:
        """The images of a split, class by class; class sizes differ by one at most. Draws nothing.

        Raises InputError for an unknown split or one without images.
        """
        if split not in self.splits:
            raise InputError(f"dataset.splits has no {split!r}, only {', '.join(self.splits)}")
        if not self.splits[split]:
            raise InputError(f"dataset.splits.{split}=0: give a number of images")
        if self.objects > 1:
            return [Record(f"{split}-{self.objects}-{index:04d}", -1) for index in range(self.splits[split])]
        return [
            Record(f"{split}-{name}-{index:04d}", label)
            for label, name in enumerate(self.classes)
            for index in range(len(range(label, self.splits[split], len(self.classes))))
        ]

    def image(self, record: Record) -> NDArray[np.uint8]:
        """RGB of shape (resize, resize, 3)."""
        rng = self._rng(record)
        scene = self._scene(rng, record)
        blend = _background(rng, self.resize)
        for name, drawn in scene:
            pattern, shape = name.split("-")
            coverage = _coverage(drawn, shape, self.resize)[..., None]
            blend = coverage * _surface(drawn, pattern, self.resize) + (1 - coverage) * blend
        return np.rint(blend).astype(np.uint8)

    def mask(self, record: Record) -> NDArray[np.bool_]:
        """True on every pixel that the object, of several the largest, touches: (resize, resize)."""
        return self.instances(record)[0][1]

    def instances(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        """Class and mask (resize, resize) of every object, the largest mask first; no other pixel depends on one."""
        scene = self._scene(self._rng(record), record)
        found = [(name, _coverage(drawn, name.split("-")[1], self.resize) > 0) for name, drawn in scene]
        return sorted(found, key=lambda named: -int(named[1].sum()))

    def _scene(self, rng: np.random.Generator, record: Record) -> list[tuple[str, _Object]]:
        """Class and object, one in the middle or several in quarters of the visible part."""
        if self.objects == 1:
            return [(self.classes[record.label], _draw_object(rng))]
        quarters = 0.5 + VISIBLE / 4 * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
        classes = rng.choice(len(self.classes), self.objects, replace=False)
        places = quarters[rng.permutation(4)[: self.objects]]
        return [
            (self.classes[label], _draw_object(rng, place, VISIBLE / 2, (0.15, 0.20)))
            for label, place in zip(classes, places, strict=True)
        ]

    def _rng(self, record: Record) -> np.random.Generator:
        # A digest, since Python's own hash() changes from process to process.
        digest = hashlib.sha256(record.image_id.encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])


def _draw_object(
    rng: np.random.Generator,
    middle: ArrayLike = (0.5, 0.5),
    room: float = VISIBLE,
    radii: tuple[float, float] = (0.30, 0.40),
) -> _Object:
    """An object inside the square of side ``room`` around ``middle``."""
    radius = rng.uniform(*radii)
    # One pixel in 73 stays free for the soft edge.
    reach = room / 2 - radius - 1 / 73
    dark, light = rng.uniform(0, 80, 3), rng.uniform(175, 255, 3)
    return _Object(
        centre=np.asarray(middle) + rng.uniform(-reach, reach, 2),
        radius=radius,
        stretch=rng.uniform(0.8, 1.0),
        tilt=rng.uniform(-0.35, 0.35),
        period=rng.uniform(0.10, 0.13),
        pattern_tilt=rng.uniform(-0.35, 0.35),
        colours=rng.permutation(np.stack([dark, light])),
    )


def _outline(shape: str) -> _Floats:
    """Corners (n, 2) of a shape inside the unit circle."""
    if shape == "cross":
        corner = np.arcsin(0.25)  # half the width of an arm
        angles = np.array([-corner, corner, np.pi / 4]) + np.pi / 2 * np.arange(4)[:, None]
        radii = np.broadcast_to([1, 1, np.sqrt(2) * 0.25], angles.shape)
    else:
        angles = 2 * np.pi * np.arange(64) / 64
        radii = np.full(64, 0.85)  # its area is nearer to the cross's than the full circle's
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1).reshape(-1, 2)


def _coverage(drawn: _Object, shape: str, size: int) -> _Floats:
    """Part of each pixel that the object covers, (size, size), 0 to 1."""
    turned = _turn(_outline(shape) * (1, drawn.stretch), drawn.tilt)
    side = size * _SUPERSAMPLING
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).polygon(_points(side * (drawn.centre + drawn.radius * turned)), fill=255)
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float64) / 255


def _surface(drawn: _Object, pattern: str, size: int) -> _Floats:
    """The object's pattern spread over the whole image: (size, size, 3), 0 to 255."""
    side = (np.arange(size) + 0.5) / size
    places = np.stack(np.meshgrid(side, side), axis=-1) - drawn.centre
    u, v = np.moveaxis(_turn(places, drawn.pattern_tilt) * 2 * np.pi / drawn.period, -1, 0)
    # The slope makes edges about one pixel wide at any size.
    share = np.clip(0.5 + _wave(pattern, u, v) * drawn.period * size / (2 * np.pi), 0, 1)[..., None]
    surface: _Floats = share * drawn.colours[0] + (1 - share) * drawn.colours[1]
    return surface


def _wave(pattern: str, u: _Floats, v: _Floats) -> _Floats:
    """A function of the place that is positive on one colour of the pattern, negative on the other."""
    wave: _Floats
    match pattern:
        case "checked":
            wave = 2 * np.sin(u / 2) * np.sin(v / 2)
        case "dotted":
            wave = np.cos(u) + np.cos(v) - 0.6
        case "gridded":
            wave = np.maximum(np.cos(u), np.cos(v)) - 0.7
        case "rayed":
            wave = 2 * np.sin(5 * np.arctan2(v, u))
        case "ringed":
            wave = np.sin(np.hypot(u, v))
        case "striped":
            wave = np.sin(u)
    return wave


def _background(rng: np.random.Generator, size: int) -> _Floats:
    """A photograph with pieces of another one, strokes and small blobs on it: (size, size, 3), 0 to 255."""
    side = size * _SUPERSAMPLING
    canvas, other = _photograph(rng, size), _photograph(rng, size)
    pieces = Image.new("L", (side, side))
    pen = ImageDraw.Draw(pieces)
    for _ in range(rng.integers(1, 4)):
        pen.polygon(_points(side * (rng.uniform(0, 1, 2) + rng.uniform(-0.25, 0.25, (4, 2)))), fill=255)
    canvas.paste(other, mask=pieces)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 4)):
        width = round(side * rng.uniform(0.015, 0.035))
        pen.line(_points(side * rng.uniform(0, 1, (3, 2))), fill=_colour(rng), width=width)
    for _ in range(rng.integers(1, 5)):
        centre, radii = rng.uniform(0, 1, 2), rng.uniform(0.02, 0.05, 2)
        pen.ellipse(_points(side * np.stack([centre - radii, centre + radii])), fill=_colour(rng))
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float64)


def _photograph(rng: np.random.Generator, size: int) -> Image.Image:
    """A square of a photograph, turned, its colours mixed, and muted so that objects stand out."""
    photograph = _photographs()[rng.integers(len(_PHOTOGRAPHS))]
    side = rng.uniform(0.3, 0.8) * min(photograph.size)
    left, top = rng.uniform(0, 1, 2) * (np.array(photograph.size) - side)
    box = (left, top, left + side, top + side)
    cut = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2))
    turned = np.rot90(cut, int(rng.integers(4)))
    muted = turned[..., rng.permutation(3)] * rng.uniform(0.3, 0.6, 3) + rng.uniform(30, 90, 3)
    supersampled = (size * _SUPERSAMPLING, size * _SUPERSAMPLING)
    return Image.fromarray(muted.astype(np.uint8)).resize(supersampled, Image.Resampling.NEAREST)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Image.Image, ...]:
    folder = Path(skimage.__file__).parent / "data"
    return tuple(Image.open(folder / name).convert("RGB") for name in _PHOTOGRAPHS)


def _turn(places: _Floats, angle: float) -> _Floats:
    """Places (..., 2) turned about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned: _Floats = places @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _points(corners: _Floats) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in corners]


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue
