"""How all figures look: symbols of families, type sizes, axes, and the strip below with legend, caption."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from fontTools import subset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

SMALL, MEDIUM = 7.0, 8.0  # points; journals ask for 7 at least
FULL_WIDTH, COLUMN_WIDTH = 7.0, 3.5  # inches
INK, FAINT = "#222222", "#d9d9d9"

# Eight colours, found by a search for the largest least distance in CIELAB between any two, as seen with normal
# vision and with each of the three kinds of colour blindness; their lightness differs too, for print in grey.
COLOURS = ("#0C3CE3", "#DB531D", "#007C54", "#E06BAA", "#04B1FB", "#E9B405", "#0D2D3F", "#7B2110")
BLUE, RED, GREEN, GOLD = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[5]
# Those eight places apart have one colour and look least alike; the star is the consensus's own.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "d", ">", "h", "p")
_FILLS: tuple[Literal["full", "none", "left"], ...] = ("full", "none", "left")
# Matplotlib's markers of one size differ in area; these look alike.
_SCALE = dict.fromkeys("^vPX<>d", 1.2) | dict.fromkeys("ph", 1.1) | {"D": 0.85, "s": 0.9}

# Sizes of DejaVu Sans in parts of the type size: a character's mean width, the pitch of lines.
_CHARACTER, _TEXT_PITCH, _LEGEND_PITCH = 0.56, 1.2, 1.5


@dataclass(frozen=True)
class Symbol:
    """How a family is drawn: marker, colour, and fill "full", "none" (outline) or "left" (half)."""

    marker: str
    colour: str
    fill: Literal["full", "none", "left"]

    def line(self, x: ArrayLike = (), y: ArrayLike = (), size: float = 5.0) -> Line2D:
        """The symbol at points (n,), (n,), or alone for a legend; size in points."""
        hollow = self.fill != "full"
        return Line2D(
            np.asarray(x),
            np.asarray(y),
            linestyle="none",
            marker=MarkerStyle(self.marker, fillstyle=self.fill),
            markersize=size * _SCALE.get(self.marker, 1) * (0.9 if hollow else 1),
            markerfacecolor="none" if self.fill == "none" else self.colour,
            markerfacecoloralt="white",
            # A white rim parts overlapping filled symbols.
            markeredgecolor=self.colour if hollow else "white",
            markeredgewidth=0.9 if hollow else 0.4,
            zorder=3,
        )


def symbols(families: Iterable[str]) -> dict[str, Symbol]:
    """A symbol for each family, by alphabet: the same families look the same in every figure.

    Shape and fill tell 36 families apart, in black and white too. No two of 96 have both shape and colour in common.
    """
    chosen = {}
    for index, family in enumerate(sorted(set(families), key=str.lower)):
        block, place = divmod(index, len(_MARKERS))
        marker = _MARKERS[(place + block % 8 // 2) % len(_MARKERS)]  # from the third block on another for a colour
        chosen[family] = Symbol(marker, COLOURS[index % len(COLOURS)], _FILLS[block % len(_FILLS)])
    return chosen


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw and save with matplotlib's own defaults whatever the user's matplotlibrc says, in PDF with TrueType fonts.

    Type 3, the default, is refused by publishers.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"pdf.fonttype": 42, "text.parse_math": False})  # a $ in a name is a letter
        with _without_layout_tables():
            yield


@contextmanager
def _without_layout_tables() -> Iterator[None]:
    """Embed fonts without their rules of layout, which PDF has no use for: to cut them takes two thirds of the time."""
    every = getattr(subset.Options, "_drop_tables_default", None)  # matplotlib has no option for it
    if every is None:
        yield
        return
    subset.Options._drop_tables_default = [*every, "GSUB", "GPOS", "GDEF"]
    try:
        yield
    finally:
        subset.Options._drop_tables_default = every


class Sheet(Figure):
    """A figure that is saved with `own_settings`, and its whole ``caption``."""

    caption = ""

    @own_settings()
    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """As in matplotlib."""
        super().savefig(*args, **kwargs)


def tidy(axes: Axes) -> None:
    """Small type, a faint grid behind, no box: for axes with points or curves."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=SMALL, length=2.5, color=INK, labelcolor=INK)
    axes.grid(color=FAINT, linewidth=0.4)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.xaxis.label.set_fontsize(MEDIUM)
    axes.yaxis.label.set_fontsize(MEDIUM)


def title(axes: Axes, text: str, pad: float = 6, math: bool = False) -> None:
    """Write small type above axes, ``pad`` points away; matplotlib need not look for its place at each drawing.

    A $ is one, unless ``math`` is set between two.
    """
    axes.set_title(text, fontsize=SMALL, linespacing=1.3, pad=pad, y=1, parse_math=math)


def missing_letters(texts: Iterable[str]) -> str:
    """The letters of ``texts`` that the figures' fonts have no picture of, sorted."""
    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    letters = {letter for text in texts for letter in text if letter.isprintable()}
    return "".join(sorted(letter for letter in letters if not any(font.get_char_index(ord(letter)) for font in fonts)))


def lay_out(figure: Figure) -> None:
    """Place the axes within the figure, once: what is drawn or saved later keeps their places."""
    ConstrainedLayoutEngine().execute(figure)


def finish(figure: Sheet, entries: Mapping[str, Line2D], caption: str) -> None:
    """Add a strip below the figure, its height growing by it, with a legend of ``entries`` and the caption.

    The figure must be laid out; its axes keep their sizes.
    """
    width, height = (float(size) for size in figure.get_size_inches())
    columns = _legend_columns(list(entries), 72 * width)
    legend_height = (-(-len(entries) // columns) * SMALL * _LEGEND_PITCH + 4) / 72 if entries else 0.0
    strip = legend_height + caption_height(caption, width)
    total = height + strip
    figure.set_size_inches(width, total)
    for axes in figure.axes:
        box = axes.get_position()
        axes.set_position((box.x0, (strip + box.y0 * height) / total, box.width, box.height * height / total))
        axes.set_in_layout(True)  # set_position leaves them out when a user crops the figure
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="upper center",
            bbox_to_anchor=(0.5, strip / total),
            ncols=columns,
            fontsize=SMALL,
            frameon=False,
            borderaxespad=0,
            borderpad=0.1,
            columnspacing=1.2,
            handlelength=1.6,
            handletextpad=0.4,
            labelspacing=0.3,
        )
    write_caption(figure, caption, (strip - legend_height) / total)


def characters(width: float) -> int:
    """How many characters of small type fit into a width in inches, about."""
    return int(72 * width / (SMALL * _CHARACTER))


def caption_height(caption: str, width: float) -> float:
    """Inches that a caption under a figure of a width in inches takes, a little space included."""
    return (len(textwrap.wrap(caption, characters(width))) * SMALL * _TEXT_PITCH + 4) / 72


def write_caption(figure: Sheet, caption: str, top: float) -> None:
    """Write the caption, wrapped to the figure's width, from ``top`` downwards (a fraction of the height)."""
    figure.caption = caption
    lines = textwrap.wrap(caption, characters(figure.get_figwidth()))
    figure.text(
        0.5,
        top,
        "\n".join(lines),
        ha="center",
        va="top",
        fontsize=SMALL,
        color=INK,
        linespacing=_TEXT_PITCH,
    )


def _legend_columns(names: list[str], points: float) -> int:
    """As many equal columns as fit; all names in one row where that fits."""
    widths = [SMALL * (_CHARACTER * len(name) + 3.5) for name in names]
    return len(names) if sum(widths) <= points else max(1, int(points / max(widths)))
