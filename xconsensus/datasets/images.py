"""Image files and their geometry: any file to upright RGB, short edge, crop."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError, features

from xconsensus.datasets.depth import Told, UnknownWhiteError, depth_of, to_bytes
from xconsensus.datasets.records import Record
from xconsensus.errors import CommonError, InputError
from xconsensus.progress import say_once
from xconsensus.resampling import resized

_AVIF = (
    ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
)  # from Pillow 11.3 on, where it was built with it
_NAMES = "bmp gif jfif jif jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{name.lower()}" for name in (*_NAMES.split(), *_AVIF))
# Pillow looks at the content, not at the suffix, and knows formats that start other programs (EPS: Ghostscript)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *_AVIF)
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
_PHOTOMETRIC, _SOFTWARE = 262, 305  # tags of TIFF
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BLACK = 16  # the brightest channel of a palette's colour that is black, maybe after compression

MOST_PIXELS = 2**26  # of a resized image: 200 MB in bytes


def read_rgb(path: Path, white: float | None = None, told: Told | None = None) -> NDArray[np.uint8]:
    """The image in ``path`` as RGB uint8 of shape (H, W, 3), turned upright by its EXIF orientation.

    Palette, grey and CMYK images are converted; transparent pixels are laid on white. In files of more than 8 bits a
    channel the value ``white`` is white; with None what the file declares, or what its values leave no doubt about;
    ``told`` is what those of other files of the data set have told.

    Raises InputError naming the file when it is missing, empty, truncated, too large or no image, or when it cannot be
    told what is white in it.
    """
    with _file(path) as image:
        if depth := depth_of(image, path):
            image = to_bytes(image, path, depth, white, told)
        return np.asarray(_to_rgb(_upright(image)))


def reads_otherwise(path: Path, white: float | None = None) -> bool:
    """Whether `read_rgb` gives other pixels, or none, than it did before files were asked what is white in them.

    Files of 8 bits a channel are only opened, not decoded. Raises InputError for what cannot be read at all.
    """
    with _file(path) as image:
        if not depth_of(image, path):
            return _is_mapped_askew(image)
        before = np.asarray(_to_rgb(_upright(image)))
    try:
        return not np.array_equal(read_rgb(path, white), before)
    except InputError:
        return True


class ImageFiles:
    """Of data sets whose images are files: ``white`` is the value that is white in those of more than 8 bits a channel
    (``dataset.white``), None where they tell it.
    """

    white: float | None = None

    def image(self, record: Record) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3), upright; InputError naming the file that cannot be read."""
        return read_rgb(Path(record.path), self.white, self._told)

    @cached_property
    def _told(self) -> Told:
        return {}


def upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height that `read_rgb` gives, from the header; None where the image has to be decoded to tell."""
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except Exception:  # of another format, or damaged
        return None


def read_mask(path: Path, void: int | None = None) -> NDArray[np.number]:
    """The mask in ``path`` as its numbers (H, W), upright by its own EXIF orientation; the first of several frames.

    These are palette indices, unless the palette's colours say otherwise (see `_palette_values`), else the alpha
    channel where it varies and shows an object that the colours do not, else the largest of a pixel's channels: as they
    are stored, but for floats in 0..1, which become 0..255. Where 0 is white they are as they look, but for Booleans by
    tifffile, which means 1 by True and writes it black.

    Raises InputError naming the file that cannot be read, or whose colours leave open where it is ``void``.
    """
    with _file(path) as file:
        _say_frames(file, path)
        image = _upright(file)
        if file.format == "TIFF" and file.tag_v2.get(_PHOTOMETRIC) == 0:  # type: ignore[attr-defined]
            image = _with_white_as_zero(image, path, str(file.tag_v2.get(_SOFTWARE, "")))  # type: ignore[attr-defined]
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            numbers = np.nan_to_num(np.asarray(image, dtype=np.float64))
            return numbers * 255 if image.mode == "F" and numbers.max(initial=0) <= 1 else numbers
        values: NDArray[np.uint8]
        if image.mode == "P":
            values = _palette_values(image, path, void)
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
        if "transparency" in image.info:  # of one value or palette index
            raise ValueError("its values and the transparency of one show different objects: save it in grey levels")
        return alpha


def _say_frames(image: Any, path: Path) -> None:
    """A line, once a process, about a mask of several frames or pages."""
    if (frames := getattr(image, "n_frames", 1)) > 1:
        say_once(f"{path}: holds {frames} frames, and the first is the mask, here and in others of this kind", "frames")


def _with_white_as_zero(image: Image.Image, path: Path, software: str) -> Image.Image:
    """A TIFF's mask in which 0 is declared to be white, as it was meant, with a line where that is open."""
    if image.mode == "1" and software.startswith("tifffile"):
        return ImageChops.invert(image)
    white = "larger values are" if image.mode.startswith("I") else "white is"
    say_once(
        f"{path}: declares 0 to be white, and {white} taken for the object, here and in others of this kind; if it is"
        " the other way round, set dataset.mask_invert=true",
        "white is zero",
    )
    return image


def _palette_values(image: Image.Image, path: Path, void: int | None) -> NDArray[np.uint8]:
    """Palette indices (H, W); the grey levels of their colours where index 0 is the object and black another index, as
    programs number colours that reduce them by themselves.

    Raises ValueError where neither can be taken.
    """
    indices: NDArray[np.uint8] = np.asarray(image)
    used, first = np.unique(indices, return_index=True)
    colours = np.asarray(image.convert("RGB"))
    shown = colours.reshape(-1, 3)[first]
    levels, is_grey = shown.max(1), bool((shown.max(1) == shown.min(1)).all())
    darkest = int(levels.argmin())
    if used[darkest] == 0 or levels[darkest] > _BLACK or (levels == levels[darkest]).all():
        return indices
    if void is not None or not (is_grey or len(used) == 2):
        raise ValueError(
            f"its palette shows index {used[darkest]} black and index {used[0]} brighter, and which of them is the"
            " object is open: save it in grey levels"
        )
    say_once(
        f"{path}: its palette shows index {used[darkest]} black, which is taken for the background, here and in others"
        " of this kind; if it is the object, set dataset.mask_invert=true or save it in grey levels",
        "palette",
    )
    return np.asarray(colours.max(2))


def looks_inverted(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask (H, W) covers most of the image's border, 1/50 of the shorter side wide, and less of its inside.

    Of 1089 masks of flowers, pets and COCO's main categories none does, and of these inverted 98 %.
    """
    width = max(1, min(mask.shape) // 50)
    inside = mask[width:-width, width:-width]
    if not inside.size:
        return False
    border = (int(mask.sum()) - int(inside.sum())) / (mask.size - inside.size)
    return bool(border >= 0.5 and border > inside.mean())


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
            f"{path}: turned as its image by the EXIF orientation of {image}, like others of this kind: a mask without"
            " an orientation of its own is one of the stored pixels; where it is not, save the image upright",
            "orientation",
        )
    return turned


def warn_of_noise(mask: NDArray[np.number], threshold: int, path: Path) -> None:
    """Say, once a process, that a mask has low levels above the threshold beside the highest: noise, or a border."""
    top = 255 if mask.max(initial=0) <= 255 else 65535
    low = np.unique(mask[(mask > threshold) & (mask < top / 8)])
    if len(low) and mask.max() >= top * 7 / 8:
        few = ", ".join(f"{value:g}" for value in low[:4]) + (" ..." if len(low) > 4 else "")
        say_once(
            f"{path}: the object has values near 0 ({few}) and near {top}, as other masks may: if compression or"
            f" resizing made them, set dataset.mask_threshold={top // 2}; if {mask.max():g} is a border or void,"
            f" dataset.mask_void={mask.max():g}",
            "noise",
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
    if min(pixels.shape[:2]) == size:
        return pixels
    height, width = resized_shape(pixels.shape, size)
    return resized(pixels, width, height, interpolation)


def resized_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width of an image of ``shape`` (H, W, ...) once its shorter edge is resized to ``size``."""
    height, width = shape[:2]
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


def check_resized(shape: tuple[int, ...], size: int) -> None:
    """InputError for an image of ``shape`` (H, W, ...) that were huge once its shorter edge is resized to ``size``."""
    height, width = shape[:2]
    if (pixels := height * width * (size / min(height, width)) ** 2) > MOST_PIXELS:
        raise InputError(
            f"{_size(shape)} pixels become {pixels / 1e6:.0f} million with the short edge at {size}, more than the"
            f" {MOST_PIXELS / 1e6:.0f} million that are taken: crop or remove it"
        )


def center_crop(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The central ``size`` x ``size`` pixels of an image or mask at least that large."""
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def resize_and_crop(
    pixels: NDArray[np.uint8], resize: int, size: int, interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """Short edge to ``resize``, then the central ``size`` x ``size`` pixels: what is explained."""
    return np.ascontiguousarray(center_crop(short_edge(pixels, resize, interpolation), size))


def crop_edges(length: int, resized: int, size: int) -> NDArray[np.intp]:
    """Where each pixel of a centre crop begins along an axis of the whole image: (size + 1,), rising, in 0..length.

    The axis has ``length`` pixels, ``resized`` after resizing. Pixel x of the whole image has its centre in pixel k of
    the crop if edges[k] <= x < edges[k + 1].
    """
    first = (resized - size) // 2
    ends = np.arange(first, first + size + 1, dtype=np.intp)
    return -((resized - 2 * length * ends) // (2 * resized))  # of ends * length / resized - 1/2, rounded up


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode; of those with more than 8 bits, as files were read before their depth was looked at."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # 16-bit grey in files of the older kind, or floats already in 0..255
        values = np.asarray(image, dtype=np.float64)
        scale = 1 / 257 if values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)).convert("RGB")
    return on_white(image)


def on_white(image: Image.Image) -> Image.Image:
    """RGB of an image of 8 bits a channel, transparent pixels laid on white."""
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


@contextmanager
def _file(path: Path) -> Iterator[Image.Image]:
    """An image file of a size that is taken, not decoded yet; a failure, also of the body, is a line with its name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF and TIFF tags are the file's business, not the user's
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(image)
                if _is_mapped_askew(image):
                    image.filename = ""  # without a name it is read
                yield image
    except UnknownWhiteError as error:
        raise CommonError(f"{path}: {error}") from error
    except Exception as error:  # decoders of hostile files raise nearly anything
        raise CommonError(f"{path}: cannot be read as an image ({_reason(path, error)})") from error


def _is_mapped_askew(image: Any) -> bool:
    """Whether Pillow maps the file into memory with its sides exchanged: TIFF of one channel that is to be turned."""
    return image.format == "TIFF" and len(image.getbands()) == 1 and image.tag_v2.get(0x0112, 1) > 4


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
    if isinstance(error, UnidentifiedImageError) and path.open("rb").read(4) in _TIFF:
        return "a TIFF of a form that is not read, as floats in colours or 64 bits: save it with 8 or 16 bits a channel"
    return " ".join(str(error).split()) or type(error).__name__
