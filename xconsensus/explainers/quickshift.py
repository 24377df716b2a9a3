"""Quickshift superpixels (Vedaldi and Soatto 2008, doi:10.1007/978-3-540-88693-8_52), equal to scikit-image's.

Each pixel is linked to the nearest one of higher density in colour and position; the trees are the superpixels. Whole
rows of pixels are compared at once with what lies at a fixed offset, and a pair of pixels once.
"""

from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.util import img_as_float

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]

_CHUNK = 4096  # pixels compared at once with a row of offsets: in a core's cache, and enough for threads to overlap
_NEAR = 13  # squared distance up to which all pixels are compared; few must look farther for a nearest one
_NOTHING = -700.0  # exp of less is slow: it is not a normal number
_FAR = 1e100  # from every colour: what stands around the image, so that no window ends at its border


def quickshift(
    image: NDArray[Any],
    ratio: float = 1.0,
    kernel_size: float = 5.0,
    max_dist: float = 10.0,
    sigma: float = 0.0,
    convert2lab: bool = True,
    rng: int = 42,
) -> NDArray[np.intp]:
    """Label map (H, W), numbered 0..K-1 without gaps, of an image (H, W, channels), uint8 or float64.

    Arguments are those of ``skimage.segmentation.quickshift``, and so are the labels: densities differ from its own in
    the last digits alone, far below the noise that breaks ties.

    Raises ValueError for ``kernel_size`` below 1.
    """
    if kernel_size < 1:
        raise ValueError("kernel_size is below 1")
    colours = img_as_float(image)
    colours = gaussian(rgb2lab(colours) if convert2lab else colours, [sigma, sigma, 0], mode="reflect", channel_axis=-1)
    colours = colours * ratio
    reach = ceil(3 * kernel_size)
    densities = _densities(colours, kernel_size, reach)
    densities += np.random.default_rng(rng).normal(scale=0.00001, size=densities.shape)
    parents = _parents(colours, densities, max_dist, reach)
    while not np.array_equal(parents, higher := parents[parents]):
        parents = higher
    return np.unique(parents, return_inverse=True)[1].reshape(densities.shape)


def _surrounded(images: Floats, reach: int, value: float) -> tuple[Floats, int, int]:
    """Images (n, H, W) in a row each, (n, K), ``value`` around them; the length of a line and the first pixel."""
    count, height, width = images.shape
    line = width + reach
    above = reach + 1 + _CHUNK // line
    padded = np.full((count, height + 2 * above, line), value)
    padded[:, above : above + height, :width] = images
    return padded.reshape(count, -1), line, above * line


def _densities(colours: Floats, kernel_size: float, reach: int) -> Floats:
    """Sum of exp(-d^2 / 2 kernel_size^2) over a window around each pixel, (H, W); d in colour and position."""
    height, width = colours.shape[:2]
    scaled = np.moveaxis(colours - colours.mean((0, 1)), -1, 0) / kernel_size
    # -|a - b|^2 / 2 = a b - |a|^2 / 2 - |b|^2 / 2, whose last two terms are the last row's
    flat, line, first = _surrounded(np.concatenate([scaled, -(scaled**2).sum(0, keepdims=True) / 2]), reach, -_FAR)
    flat[:-1][:, flat[-1] == -_FAR] = 0
    rows, totals = torch.from_numpy(flat), torch.ones(flat.shape[1], dtype=torch.float64)
    for down in range(reach + 1):
        right = torch.arange(-reach if down else 1, reach + 1)
        weights = torch.exp(-(down**2 + right.double() ** 2) / (2 * kernel_size**2))
        room = torch.zeros(len(right), _CHUNK + len(right), dtype=torch.float64)
        similar = room[:, :_CHUNK]
        # Row i belongs to offset i: in a view with rows one shorter, a column belongs to one other pixel.
        ends = _CHUNK + len(right) - 1
        others = room.as_strided((len(right), ends), (ends, 1))
        for start in range(first, first + height * line, _CHUNK):
            there = start + down * line + int(right[0])
            windows = [row.as_strided(similar.shape, (1, 1), row.storage_offset() + there) for row in rows]
            torch.add(rows[-1, start : start + _CHUNK], windows[-1], out=similar)
            for row, window in zip(rows[:-1], windows, strict=False):
                similar.addcmul_(row[start : start + _CHUNK], window)
            similar.clamp_min_(_NOTHING).exp_()
            totals[start : start + _CHUNK] += weights @ similar
            totals[there : there + ends] += weights @ others
    return totals.numpy()[first : first + height * line].reshape(height, line)[:, :width].copy()


def _parents(colours: Floats, densities: Floats, max_dist: float, reach: int) -> Positions:
    """The nearest pixel of higher density within ``max_dist`` of each, the first of equally near ones, else itself.

    Distances are added up in scikit-image's order: equal ones must be equal to the last digit here and there.
    """
    height, width = densities.shape
    reach = min(reach, int(max_dist))
    flat, line, first = _surrounded(np.concatenate([np.moveaxis(colours, -1, 0), densities[None]]), reach, -_FAR)
    pixels = slice(first, first + height * line)
    down, right = np.indices((2 * reach + 1, 2 * reach + 1)).reshape(2, -1) - reach
    within = (down**2 + right**2 > 0) & (down**2 + right**2 <= max_dist**2)
    down, right = down[within], right[within]
    closest, links = np.full(height * line, np.inf), np.zeros(height * line, np.intp)
    for i in np.flatnonzero(down**2 + right**2 <= _NEAR):
        shift = down[i] * line + right[i]
        others = flat[:, pixels.start + shift : pixels.stop + shift]
        squares = _squares(flat[:, pixels], others, down[i], right[i])
        better = squares < closest
        better &= others[-1] > flat[-1, pixels]
        np.copyto(closest, squares, where=better)
        np.copyto(links, shift, where=better)
    left = np.flatnonzero((closest > _NEAR) & (np.arange(height * line) % line < width))
    shifts = down * line + right
    for some in np.array_split(left, 1 + len(left) * len(shifts) // 2**20) if len(shifts) else []:
        others = flat[:, first + some[:, None] + shifts]
        squares = _squares(flat[:, first + some, None], others, down, right)
        squares[others[-1] <= flat[-1, first + some, None]] = np.inf
        best = squares.argmin(1)
        closest[some], links[some] = squares[np.arange(len(some)), best], shifts[best]
    links[np.sqrt(closest) > max_dist] = 0
    row, column = np.divmod(np.arange(height * line) + links, line)
    return np.asarray((row * width + column).reshape(height, line)[:, :width].ravel())


def _squares(here: Floats, there: Floats, down: Any, right: Any) -> Floats:
    """Squared distances in colour and position of pixels; the last row of each is not a colour."""
    gaps = here[:-1] - there[:-1]
    gaps *= gaps
    total = gaps[0]
    for row in gaps[1:]:
        total += row
    total += down**2
    total += right**2
    return np.asarray(total)
