"""Image files and their geometry: any file to upright RGB, short edge, crop."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from xconsensus.errors import CommonError, InputError
from xconsensus.progress import say_once

RESAMPLING: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pillow looks at the content, not at the suffix, and knows formats that start other programs (EPS: Ghostscript)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# what each EXIF orientation but the upright does to the pixels (H, W) that are stored
_TURNS: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: np.transpose,
    6: partial(np.rot90, k=-1),
    7: lambda mask: np.rot90(mask, 2).T,
    8: np.rot90,
}


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """The image in ``path`` as RGB uint8 of shape (H, W, 3), turned upright by its EXIF orientation.

    Palette, grey, CMYK and 16-bit images are converted; transparent pixels are laid on white.

    Raises InputError naming the file when it is missing, empty, truncated, too large or no image.
    """
    with _opened(path) as image:
        return np.asarray(_to_rgb(image))


def read_mask(path: Path, void: int | None = None) -> NDArray[np.number]:
    """The mask in ``path`` as its numbers (H, W), upright by its own EXIF orientation.

    These are palette indices, else the alpha channel where it varies and shows an object that the colours do not, else
    the largest of a pixel's channels: as they are stored, but for floats in 0..1, which become 0..255.

    Raises InputError naming the file that cannot be read, or whose colours leave open where it is ``void``.
    """
    with _opened(path) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            numbers = np.nan_to_num(np.asarray(image, dtype=np.float64))
            return numbers * 255 if image.mode == "F" and numbers.max(initial=0) <= 1 else numbers
        if image.mode == "P":
            values: NDArray[np.uint8] = np.asarray(image)
        else:
            channels = np.asarray(image.convert("RGB"))
            values = channels.max(2)
            if void is not None and ((values == void) & (channels.min(2) != void)).any():
                raise ValueError(f"it is in colours, and dataset.mask_void={void} needs grey levels or palette indices")
        if not image.has_transparency_data:
            return values
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        levels = len(np.unique(alpha))
        if levels == 1 or (levels == 2 and np.array_equal(alpha > 0, values > 0)):
            return values
        if image.mode == "P":
            raise ValueError("its palette indices and its transparency show different objects: save it in grey levels")
        return alpha


def as_its_image(mask: NDArray[np.number], path: Path, image: Path, shape: tuple[int, ...]) -> NDArray[np.number]:
    """The mask of ``path`` turned as the file ``image``, of the upright ``shape``, says of itself by EXIF.

    Not where the mask has an orientation of its own, or fits the upright image alone. Where its size does not tell, it
    was drawn on the stored pixels, and a line says so, once a process.
    """
    turn = _TURNS.get(_orientation(image) or 1)
    if turn is None or _orientation(path) is not None or (turned := turn(mask)).shape != shape[:2]:
        return mask
    if mask.shape == shape[:2] and not np.array_equal(turned, mask):
        say_once(
            "orientation",
            f"{path}: turned as its image by the EXIF orientation of {image}, like others of this kind: a mask without"
            " an orientation of its own is one of the stored pixels; where it is not, save the image upright",
        )
    return turned


def warn_of_noise(mask: NDArray[np.number], threshold: int, path: Path) -> None:
    """Say, once a process, that a mask has low levels above the threshold beside the highest: noise, or a border."""
    top = 255 if mask.max(initial=0) <= 255 else 65535
    low = np.unique(mask[(mask > threshold) & (mask < top / 8)])
    if len(low) and mask.max() >= top * 7 / 8:
        few = ", ".join(f"{value:g}" for value in low[:4]) + (" ..." if len(low) > 4 else "")
        say_once(
            "noise",
            f"{path}: the object has values near 0 ({few}) and near {top}, as other masks may: if compression or"
            f" resizing made them, set dataset.mask_threshold={top // 2}; if {mask.max():g} is a border or void,"
            f" dataset.mask_void={mask.max():g}",
        )


def checked_mask(
    mask: NDArray[np.bool_], image: NDArray[np.uint8], path: Path, image_path: str, rule: str
) -> NDArray[np.bool_]:
    """The mask, if it can be that of its image.

    Parameters
    ----------
    mask, image : (H, W) and (H, W, 3), as read from their files.
    path, image_path : these files, for the message.
    rule : why a mask may be empty.

    Raises InputError naming ``path`` when the mask is of another size or empty.
    """
    if mask.shape != (shape := image.shape[:2]):
        raise InputError(f"{path}: mask is {_size(mask.shape)} pixels, its image {image_path} {_size(shape)}")
    if not mask.any():
        raise InputError(f"{path}: mask is empty, {rule}")
    return mask


def short_edge(pixels: NDArray[np.uint8], size: int, interpolation: str = "bicubic") -> NDArray[np.uint8]:
    """``pixels`` (H, W) or (H, W, 3) with the shorter edge resized to ``size``; itself where that already fits."""
    height, width = pixels.shape[:2]
    if min(height, width) == size:
        return pixels
    scale = size / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(shape, RESAMPLING[interpolation]))


def center_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The central ``size`` x ``size`` pixels of an image or mask at least that large."""
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def resize_and_crop(
    pixels: NDArray[np.uint8], resize: int, size: int, interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """Short edge to ``resize``, then the central ``size`` x ``size`` pixels: what a member sees in evaluation."""
    return np.ascontiguousarray(center_crop(short_edge(pixels, resize, interpolation), size))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # 16-bit grey in files of the older kind, or floats already in 0..255
        values = np.asarray(image, dtype=np.float64)
        scale = 1 / 257 if values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The first frame of an image file, decoded and upright; a failure, also of the body, is a line with its name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF and TIFF tags are the file's business, not the user's
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(image)
                image.load()
                yield ImageOps.exif_transpose(image)
    except Exception as error:  # decoders of hostile files raise nearly anything
        raise CommonError(f"{path}: cannot be read as an image ({_reason(path, error)})") from error


def _orientation(path: Path) -> int | None:
    """The EXIF orientation in an image file that can be read, None where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=_FORMATS) as image:
            return image.getexif().get(ExifTags.Base.Orientation)


def _check_size(image: Image.Image) -> None:
    """ValueError for more pixels than Pillow's limit, at which Pillow itself warns, and fails at twice as many only."""
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise ValueError(f"{pixels} pixels, more than the {limit} that are taken for a decompression bomb")


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    return " ".join(str(error).split()) or type(error).__name__
