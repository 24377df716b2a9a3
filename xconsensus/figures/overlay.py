"""A map and a box over the whole picture, in its own pixels."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from xconsensus.figures.gallery import PALE, opacity, tints

_FRAME = (0, 114, 178)


def overlay(image: NDArray[np.uint8], strength: NDArray[np.uint8], box: NDArray[np.intp] | None) -> NDArray[np.uint8]:
    """A map's ``strength`` (H, W), 0..255, as colour over the pale grey ``image`` (H, W, 3), and its box in blue.

    The box is (left, top, right, bottom), the last two outside of it. Returns RGB (H, W, 3).
    """
    picture = (
        Image.fromarray(image).convert("L").point([round(255 * PALE[0] + PALE[1] * level) for level in range(256)])
    )
    colours = np.round(255 * tints()).astype(np.uint8)[strength]
    cover = np.round(255 * opacity(np.linspace(0, 1, 256))).astype(np.uint8)[strength]
    picture = Image.composite(Image.fromarray(colours), picture.convert("RGB"), Image.fromarray(cover))
    if box is not None:
        left, top, right, bottom = map(int, box)
        width = max(1, round(min(image.shape[:2]) / 150))
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=_FRAME, width=width)
    return np.asarray(picture)
