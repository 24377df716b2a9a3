"""The three steps of the method on one image (Figure 1)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.gallery import BAR, COLOURS, FRAME, Colours, Tile, as_bytes, colour_bar, heat, wrapped

# inches: image and consensus, maps, their rows, titles, a member's box, below the rows the bars' axis and the colours'
_LARGE, _SMALL, _PITCH, _TOP, _BOX, _BELOW = 1.05, 0.74, 0.84, 0.42, (1.1, 0.36), 0.12 + BAR


@style.own_settings()
def fig01(
    image: NDArray[np.uint8],
    members: Sequence[Tile],
    consensus: NDArray[np.floating],
    scores: ArrayLike,
    caption: str,
    colours: Colours = COLOURS,
) -> style.Sheet:
    """The paper's three steps: a committee, its explanations and their vote, each one's similarity to it (Fig. 1).

    Parameters
    ----------
    image : (H, W, 3) uint8.
    members, consensus : the members' maps and their consensus, (H, W) each.
    scores : each member's similarity to the consensus on this image, at most 1.
    caption : the line below.
    colours : what those of maps show.

    Raises InputError if there is no member.
    """
    if not members:
        raise InputError("figure 1: give at least one member")
    tall = max(len(members) * _PITCH, _LARGE + 0.3)
    strip = style.caption_height(caption, style.FULL_WIDTH)
    height = _TOP + tall + _BELOW + strip
    figure = style.Sheet(figsize=(style.FULL_WIDTH, height))

    def place(left: float, middle: float, width: float, tall: float) -> Axes:
        """Axes in inches, ``middle`` measured from the top."""
        low = height - middle - tall / 2
        return figure.add_axes((left / style.FULL_WIDTH, low / height, width / style.FULL_WIDTH, tall / height))

    centre = _TOP + tall / 2
    whole, agreed = (place(left, centre, _LARGE, _LARGE) for left in (0.05, 3.97))
    _show(whole, image, "Image")
    _show(agreed, heat(image, consensus, colours), "Consensus")
    agreed.spines[:].set(visible=True, color=FRAME, linewidth=2)
    rows = [_TOP + (row + 0.5) * tall / len(members) for row in range(len(members))]
    similarities = np.asarray(scores, dtype=float)
    limits = np.nanmin([0.0, *similarities]), np.nanmax([0.0, *similarities])
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(*(limits if limits[0] < limits[1] else (0.0, 1.0)))
    for tile, middle, score in zip(members, rows, similarities, strict=True):
        model = place(1.4, middle, *_BOX)
        model.set(xticks=[], yticks=[])
        model.spines[:].set_color(style.INK)
        model.text(
            0.5, 0.5, "\n".join(wrapped(tile.name, 0.85 * _BOX[0])), ha="center", va="center", fontsize=style.SMALL
        )
        own = place(2.85, middle, _SMALL, _SMALL)
        _show(own, heat(image, tile.map, colours))
        _arrow(figure, whole, (1.02, 0.5), model, (-0.02, 0.5))
        _arrow(figure, model, (1.02, 0.5), own, (-0.06, 0.5))
        _arrow(figure, own, (1.04, 0.5), agreed, (-0.04, 0.5))
        bar = place(5.4, middle, 1.15, 0.22)
        bar.barh([0], [score], color=style.BLUE, height=0.8)
        bar.axvline(0, color=style.INK, linewidth=0.8)
        bar.set(xlim=(ticks[0], ticks[-1]), ylim=(-0.5, 0.5), yticks=[])
        last = middle == rows[-1]
        bar.set_xticks(ticks, [f"{tick:g}" for tick in ticks] if last else [""] * len(ticks))
        bar.tick_params(labelsize=style.SMALL, length=2.5, color=style.INK, labelcolor=style.INK)
        bar.spines[:].set_color(style.FAINT)
        text = f"{score:.3f}" if np.isfinite(score) else "none"
        bar.text(1.03, 0.5, text, transform=bar.transAxes, va="center", fontsize=style.SMALL)
        style.title(bar, tile.name, pad=2)
        _arrow(figure, agreed, (1.05, 0.5), bar, (-0.04, 0.5))
    for left, title in ((1.95, "1. Committee"), (3.94, "2. Explanations and vote"), (5.975, "3. Similarity")):
        figure.text(
            left / style.FULL_WIDTH, 1 - 0.13 / height, title, ha="center", va="center", fontsize=9, fontweight="bold"
        )
    colour_bar(figure, [*(tile.map for tile in members), consensus], strip, colours)
    style.write_caption(figure, caption, strip / height)
    return figure


def _show(axes: Axes, picture: NDArray[np.generic], name: str = "") -> None:
    """Show a picture, its name above, no frame; the axes shrink to it."""
    axes.imshow(as_bytes(picture))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    style.title(axes, name, pad=2)


def _arrow(figure: style.Sheet, start: Axes, at: tuple[float, float], end: Axes, to: tuple[float, float]) -> None:
    figure.add_artist(
        ConnectionPatch(
            at, to, start.transAxes, end.transAxes, arrowstyle="-|>", color="#777777", linewidth=0.7, mutation_scale=7
        )
    )
