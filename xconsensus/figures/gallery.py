"""Images as the members explain them, and their consensus (Figures 2, 3, 9, 12 to 15)."""

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from xconsensus.errors import InputError
from xconsensus.figures import style

COLUMNS = 7  # tiles a line at most, the consensus apart: names stay legible
# Inches: the name at the side, between tiles, around all, a line of text, the widest tile.
_SIDE, _GAP, _MARGIN, _LINE, _WIDEST = 0.2, 0.06, 0.04, 0.115, 1.3
BAR = 0.3  # inches of height that `colour_bar` takes
FRAME = style.COLOURS[6]  # of the consensus: in none of the maps' colours


class Tile(NamedTuple):
    """One map of the gallery: (H, W) floats, its AP if known, and lines of text such as "macaw"."""

    name: str
    map: NDArray[np.floating]
    average_precision: float | None = None
    note: str = ""


class Row(NamedTuple):
    """One row of the gallery: an (H, W, 3) uint8 RGB image, its maps, the consensus last, and objects' (H, W) masks."""

    label: str
    image: NDArray[np.uint8]
    tiles: Sequence[Tile]
    masks: Sequence[NDArray[np.bool_]] = ()


class Colours(NamedTuple):
    """What a map's colours show: the largest ``clip_percent`` of its values alike, and ``negative`` ones or not."""

    clip_percent: float = 1.0
    negative: bool = False

    @property
    def words(self) -> str:
        """The same for a caption."""
        clip = f", the largest {self.clip_percent:g} % of pixels alike" if self.clip_percent else ""
        return f"red: positive values{clip}; negative ones {'blue' if self.negative else 'are not shown'}"

    @property
    def unit(self) -> str:
        """What is 1 on the colour bar."""
        return f"{100 - self.clip_percent:g}th percentile of each map" if self.clip_percent else "largest of each map"


COLOURS = Colours()


@style.own_settings()
def gallery(rows: Sequence[Row], caption: str = "", colours: Colours = COLOURS) -> style.Sheet:
    """Images, maps of each, and in the last column, framed, the consensus (Figs. 2, 3, 9, 12-15).

    A map is shown as `heat`, and a bar below says what its colours are. Masks are outlined on the image. Many members
    wrap into several lines. Rows of the same members in one line have their names above the first row alone.

    Raises InputError if there is no row, a row lacks members, maps or masks have another size than their image, or
    images differ in size.
    """
    if not rows or any(len(row.tiles) < 2 for row in rows):
        raise InputError("gallery: give at least one row with a member and the consensus")
    _check_sizes(rows)
    cells = 1 + max(len(row.tiles) - 1 for row in rows)
    lines = -(-cells // COLUMNS)
    columns = -(-cells // lines)
    sheet = _Sheet(columns, lines, rows, caption)
    for number, row in enumerate(rows):
        sheet.label(number, row.label)
        sheet.show(number, 0, row.image, "Image", outlines=row.masks)
        for cell, tile in enumerate(row.tiles[:-1], start=1):
            sheet.show(number, cell, heat(row.image, tile.map, colours), tile.name, _below(tile))
        sheet.show_consensus(number, heat(row.image, row.tiles[-1].map, colours), _below(row.tiles[-1]))
    strip = style.caption_height(caption, style.FULL_WIDTH)
    colour_bar(sheet.figure, [tile.map for row in rows for tile in row.tiles], strip, colours)
    style.write_caption(sheet.figure, caption, strip / sheet.height)
    return sheet.figure


def _check_sizes(rows: Sequence[Row]) -> None:
    height, width = rows[0].image.shape[:2]
    for row in rows:
        named = [(tile.name, tile.map) for tile in row.tiles] + [("the mask", mask) for mask in row.masks]
        for name, values in [("the image", row.image), *named]:
            if np.shape(values)[:2] != (height, width):
                raise InputError(
                    f"gallery: {row.label} map of {name} is {np.shape(values)}, the image {(height, width)}; "
                    "explain the images at one size"
                )


def _below(tile: Tile) -> list[str]:
    known = tile.average_precision is not None and np.isfinite(tile.average_precision)
    return [*([f"AP {tile.average_precision:.3f}"] if known else []), *tile.note.splitlines()]


def heat(
    image: NDArray[np.uint8], explanation: NDArray[np.floating], colours: Colours = COLOURS
) -> NDArray[np.floating]:
    """The map as colour over the pale grey image: (H, W, 3) RGB in [0, 1]; positive values red, negative ones blue."""
    grey = PALE[0] + PALE[1] * (image @ np.array([0.299, 0.587, 0.114])) / 255
    return _coloured(grey, strength_of(explanation, colours), np.nan_to_num(explanation) < 0)


# A photograph's grey from black on and by how much up to white: so pale that weak colours show on it.
PALE = (0.55, 0.45)


def tints(colourmap: str = "YlOrRd") -> NDArray[np.floating]:
    """The colour of each strength 0, 1/255, ... 1, RGB (256, 3) in [0, 1]; the palest ones are left out."""
    return np.asarray(colormaps[colourmap](np.linspace(0.45, 1, 256))[:, :3])


def opacity(strength: NDArray[np.floating]) -> NDArray[np.floating]:
    """How much of a colour of a strength in [0, 1] covers the photograph, in [0, 1]: weak ones already show."""
    return np.asarray(strength**0.75)


def _coloured(
    grey: NDArray[np.floating], strength: NDArray[np.floating], negative: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Grey (H, W) under the colours of a strength (H, W), those of ``negative`` pixels blue: RGB (H, W, 3)."""
    level = np.round(255 * strength).astype(int)
    colour = np.where(negative[..., None], tints("Blues")[level], tints()[level])
    cover = opacity(strength)[..., None]
    return np.asarray((1 - cover) * grey[..., None] + cover * colour)


def colour_bar(figure: style.Sheet, maps: Sequence[NDArray[np.floating]], low: float, colours: Colours) -> None:
    """Below ``maps``, ``low`` inches above the figure's lower edge: the colours from the lowest to the largest value.

    Over middle grey, and of negative values if they are shown and a map has any.
    """
    lowest = [np.nanmin(each) for each in maps if np.isfinite(each).any()]
    signed = colours.negative and min(lowest, default=0) < 0
    values = np.linspace(-1.0 if signed else 0.0, 1, 256)[None]
    width, height = figure.get_size_inches()
    wide = 1.6 / width
    axes = figure.add_axes(((1 - wide) / 2, (low + 0.17) / height, wide, 0.09 / height))
    picture = _coloured(np.full(values.shape, PALE[0] + PALE[1] / 2), np.abs(values), values < 0)
    axes.imshow(as_bytes(picture), extent=(values[0, 0], 1, 0, 1), aspect="auto")
    ticks = {-1: "\N{MINUS SIGN}1", 0: "0" if signed or max(lowest, default=0) <= 0 else "lowest", 1: "1"}
    ticks = {at: text for at, text in ticks.items() if at >= values[0, 0]}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_yticks([])
    axes.tick_params(labelsize=style.SMALL, length=2, pad=1.5, color=style.INK, labelcolor=style.INK)
    axes.spines[:].set_linewidth(0.4)
    words: dict[str, Any] = {"va": "center", "fontsize": style.SMALL, "color": style.INK, "transform": axes.transAxes}
    axes.text(-0.06, 0.5, "against the class" if signed else "", ha="right", **words)
    axes.text(1.06, 0.5, f"for the class; 1: {colours.unit}", ha="left", **words)


def strength_of(explanation: NDArray[np.floating], colours: Colours = COLOURS) -> NDArray[np.floating]:
    """How strong the map (H, W) is coloured, in [0, 1].

    The scale runs from the lowest value, or 0 if that is negative, to a percentile, the 99th as is customary for
    SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825); a constant map colours nothing.
    """
    signed = np.nan_to_num(np.asarray(explanation, dtype=np.float64))
    values = np.abs(signed) if colours.negative else signed
    low, high = max(0.0, signed.min()), np.percentile(values, 100 - colours.clip_percent)
    if high <= low:
        high = values.max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def as_bytes(picture: NDArray[np.generic]) -> NDArray[np.uint8]:
    """A picture (H, W, 3), uint8 or floats in [0, 1], as uint8."""
    scale = 1 if picture.dtype == np.uint8 else 255
    return np.round(scale * picture.astype(float)).astype(np.uint8)


class _Sheet:
    """Places tiles in inches: each row of the gallery has ``lines`` lines of ``columns`` cells, then the consensus."""

    def __init__(self, columns: int, lines: int, rows: Sequence[Row], caption: str) -> None:
        self.columns, self.lines = columns, lines
        # The consensus stands out by size too, where it has several lines' height to itself.
        self.enlarged = 1.0 if lines == 1 else 1.5
        free = style.FULL_WIDTH - 2 * _MARGIN - _SIDE - columns * _GAP
        self.width = min(free / (columns + self.enlarged), _WIDEST)
        self.tall: float = self.width * rows[0].image.shape[0] / rows[0].image.shape[1]
        tiles = [tile for row in rows for tile in row.tiles]
        names = [[tile.name for tile in row.tiles] for row in rows]
        self.named = [number == 0 or lines > 1 or own != names[0] for number, own in enumerate(names)]
        above = _LINE * max(len(self._wrapped(tile.name)) for tile in tiles) + 0.04
        self.above = [above if named else 0.0 for named in self.named]
        self.below = _LINE * max(len(_below(tile)) for tile in tiles) + 0.04
        heights = [max(lines * self._pitch(row), self._tallest(row)) + _GAP for row in range(len(rows))]
        self.tops: list[float] = np.cumsum([0.0, *heights]).tolist()
        self.height = self.tops[-1] + BAR + style.caption_height(caption, style.FULL_WIDTH)
        self.figure = style.Sheet(figsize=(style.FULL_WIDTH, self.height))
        self.figure.suppressComposite = True  # or the PDF would hold all pictures as one, of the page's size
        # one pair of axes in inches from the top left: a pair a picture takes several times as long
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, style.FULL_WIDTH), ylim=(self.height, 0))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)
        used = _SIDE + columns * (self.width + _GAP) + self.enlarged * self.width
        self.left = (style.FULL_WIDTH - used) / 2

    def _pitch(self, row: int) -> float:
        return self.above[row] + self.tall + self.below

    def _tallest(self, row: int) -> float:
        """The height of the consensus with its texts."""
        return self.above[row] + self.enlarged * self.tall + self.below

    def label(self, row: int, text: str) -> None:
        """An explainer's or class's name, upright at the left of its row."""
        self.axes.text(
            self.left + _SIDE / 3,
            (self.tops[row] + self.tops[row + 1] + self.above[row] - self.below) / 2,
            textwrap.shorten(text, style.characters(self._tallest(row)), placeholder="\N{HORIZONTAL ELLIPSIS}"),
            rotation=90,
            ha="center",
            va="center",
            fontsize=style.MEDIUM,
            fontweight="bold",
        )

    def show(
        self,
        row: int,
        cell: int,
        picture: NDArray[np.generic],
        name: str,
        below: Sequence[str] = (),
        outlines: Sequence[NDArray[np.bool_]] = (),
    ) -> None:
        """A picture in a cell of a row, counted line by line, with lines of text below and masks outlined on it."""
        line, column = divmod(cell, self.columns)
        left = self.left + _SIDE + column * (self.width + _GAP)
        top = self.tops[row] + line * self._pitch(row) + self.above[row]
        self._place(left, top, 1.0, picture, "\n".join(self._wrapped(name)) if self.named[row] else "", below)
        height, width = picture.shape[:2]
        x = left + self.width * (np.arange(width) + 0.5) / width
        y = top + self.tall * (np.arange(height) + 0.5) / height
        for mask in outlines:
            if np.any(mask):
                self.axes.contour(x, y, mask, levels=[0.5], colors=style.RED, linewidths=1)

    def show_consensus(self, row: int, picture: NDArray[np.generic], below: Sequence[str]) -> None:
        """The last column: framed, in the middle of its row's height."""
        left = self.left + _SIDE + self.columns * (self.width + _GAP)
        spare = max(0, self.lines * self._pitch(row) - self._tallest(row))
        top = self.tops[row] + spare / 2 + self.above[row]
        title = "Consensus" if self.named[row] else ""
        self._place(left, top, self.enlarged, picture, title, below, fontweight="bold")
        size = (self.enlarged * self.width, self.enlarged * self.tall)
        self.axes.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=FRAME, linewidth=2))

    def _place(
        self,
        left: float,
        top: float,
        scale: float,
        picture: NDArray[np.generic],
        name: str,
        below: Sequence[str],
        fontweight: str = "normal",
    ) -> None:
        """Show a picture, ``scale`` times a tile's size, between its name, if any, and lines of text.

        Parameters
        ----------
        left, top : the picture's corner, inches.
        scale : its size, in a tile's.
        picture : (H, W, 3) uint8, or floats in [0, 1].
        name : above it.
        below : the lines below it.
        fontweight : the name's.
        """
        right, bottom = left + scale * self.width, top + scale * self.tall
        self.axes.imshow(as_bytes(picture), extent=(left, right, bottom, top), aspect="auto")
        around: dict[str, Any] = {"ha": "center", "fontsize": style.SMALL, "linespacing": 1.05}
        gap, middle = 2 / 72, (left + right) / 2
        if below:
            self.axes.text(middle, bottom + gap, "\n".join(below), va="top", **around)
        if name:
            self.axes.text(middle, top - gap, name, va="baseline", fontweight=fontweight, **around)

    def _wrapped(self, name: str) -> list[str]:
        return wrapped(name, self.width)


def wrapped(name: str, width: float) -> list[str]:
    """A name in at most two lines of a width in inches, broken after punctuation so that both are short, or cut."""
    fit = max(4, style.characters(width))
    parts = re.findall(r"[^_\-. ]*[_\-. ]|[^_\-. ]+", name)
    breaks = [["".join(parts[:count]), "".join(parts[count:])] for count in range(1, len(parts))]
    lines = [name] if len(name) <= fit or not breaks else min(breaks, key=lambda lines: max(map(len, lines)))
    lines = [line.strip() for line in lines]
    return [line if len(line) <= fit else line[: fit - 1] + "\N{HORIZONTAL ELLIPSIS}" for line in lines]
