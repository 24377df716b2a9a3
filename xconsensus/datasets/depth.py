"""Image files of more than 8 bits a channel: what in them is white, and their values as bytes.

Black is 0. White is what the user says (``dataset.white``), else what the file declares, else what its values leave no
doubt about; otherwise the user is asked: 12 bits in a file of 16 would be all but black.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xconsensus.progress import log

_KINDS = {2: "i", 3: "f"}  # of TIFF's SampleFormat
_BITS, _FORMAT, _PHOTOMETRIC, _PLANAR, _LARGEST = 258, 339, 262, 284, (281, 341)  # tags of TIFF
_DARK = 16  # a brightest value below 1/16 of white is taken for that of another depth, not for a dark image's
_OVERSHOOT = 1.05  # resampling goes beyond white, and below black
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # of a raw mode's two bytes


class UnknownWhiteError(ValueError):
    """What is white in a file cannot be told, or is not what the user says."""


Told = dict[tuple[str, int], tuple[float, Path]]  # kind and bits of files -> white, and the file that told it first
_dark: list[str] = []  # the file that was named as dark, one a process


@dataclass(frozen=True)
class Depth:
    """How a file holds a sample: ``kind`` is u, i or f (unsigned, signed, float); ``white`` is what it declares, ``by``
    PNG's sBIT, netpbm's maxval or a tag of TIFF.
    """

    kind: str
    bits: int
    white: float | None = None
    by: str = ""


def depth_of(image: Any, path: Path) -> Depth | None:
    """The depth of the image file ``path`` just opened, by its header alone; None for at most 8 bits without a sign."""
    match image.format:
        case "PNG" if ";16" in str(image.tile[0].args):
            bits = _significant_bits(path)
            return Depth("u", 16, 2**bits - 1 if bits < 16 else None, "sBIT")
        case "PPM" if image.mode == "F":
            return Depth("f", 32)
        case "PPM" if (maxval := _maxval(image)) > 255:
            return Depth("u", 16, maxval if maxval < 65535 else None, "maxval")
        case "TIFF":
            tags = image.tag_v2
            bits, kind = int(np.max(tags.get(_BITS, 1))), _KINDS.get(int(np.max(tags.get(_FORMAT, 1))), "u")
            declared = [float(np.max(tags[tag])) for tag in _LARGEST if tag in tags]
            whites = [white for white in declared if kind == "f" or white < 2**bits - 1]
            whites += [2**bits - 1] if 8 < bits < 16 else []
            return Depth(kind, bits, min(whites, default=None), "tag") if bits > 8 or kind != "u" else None
    return None


def to_bytes(image: Any, path: Path, depth: Depth, white: float | None, told: Told | None = None) -> Image.Image:
    """The image file ``path`` just opened, whose `depth_of` is ``depth``, in 8 bits a channel; not yet turned upright.

    Parameters
    ----------
    image, path, depth : the file.
    white : what is white, None to find out.
    told : what the values of other files of the data set have told.

    Raises ValueError, a line without the file's name; an UnknownWhiteError asks for ``white``.
    """
    mode, several = str(image.mode), len(image.getbands()) > 1
    values = _samples(image, path, depth, exact=white is not None or depth.white is not None)
    colours = values[..., :-1] if mode == "RGBA" else values
    given, white = white, _white(colours, depth, white)
    if told is not None and not (given or depth.white) and colours.any():
        _check_alike(path, depth, white, told)
    if not (given or depth.white or _dark) and depth.kind == "u" and 0 < (brightest := colours.max()) < white / 4:
        _dark.append(str(path))
        log.info(f"{path} is dark, {brightest} of {white:g}: if white is less, 16383 say, set dataset.white")
    if depth.by == "maxval" and not several and not given:  # as Pillow reads it
        values, white = np.rint(values / white * 65535), 65535
    pixels = _scaled(values, white)
    if mode == "RGBA" and values[..., -1].max(initial=0) > white:
        pixels[..., -1] = _scaled(values[..., -1], 65535)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:
        pixels = 255 - pixels
    eight = Image.frombytes(mode if several else "L", pixels.shape[1::-1], pixels.tobytes())
    eight.info = {key: value for key, value in image.info.items() if several or key != "transparency"}
    return eight


# --- white ---


def _check_alike(path: Path, depth: Depth, white: float, told: Told) -> None:
    """UnknownWhiteError where values of another file of this kind told another white."""
    before, other = told.setdefault((depth.kind, depth.bits), (white, path))
    if before != white:
        raise UnknownWhiteError(
            f"its values tell that {white:g} is white, but those of {other} that {before:g} is: set dataset.white to"
            " that of all, or save them alike"
        )


def _white(values: NDArray[Any], depth: Depth, given: float | None) -> float:
    """What of ``values`` is white; UnknownWhiteError where nothing tells."""
    lowest, brightest = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite([lowest, brightest]).all():
        raise ValueError("it holds values that are no numbers, NaN or infinite")
    if given is not None:
        if np.median(values) > given or 0 < brightest < given / 256:
            where = "most of its values lie above" if brightest > given else "all of its values are black under"
            raise UnknownWhiteError(f"{where} dataset.white={given:g}: they go from {lowest:.6g} to {brightest:.6g}")
        return given
    if depth.white is not None and _is_true(depth.white, depth.by, values, brightest):
        return depth.white
    for white in _usual_whites(depth):
        fits = brightest == 0 or white / _DARK <= brightest <= white * _OVERSHOOT or brightest <= white == 1
        saturated = (depth.kind, depth.bits) == ("u", 16) and brightest in (
            2**13 - 1,
            2**14 - 1,
            2**15 - 1,
        )  # at a smaller white
        if fits and not saturated and lowest >= white * (1 - _OVERSHOOT):
            return white
    kind = {"u": "whole numbers", "i": "signed whole numbers", "f": "floating-point numbers"}[depth.kind]
    most = depth.bits - (depth.kind == "i")
    bits = next((bits for bits in (12, 14, most) if bits <= most and brightest < 2**bits), most)
    raise UnknownWhiteError(
        f"its {depth.bits}-bit {kind} go from {lowest:.6g} to {brightest:.6g}, and nothing tells which of them is"
        f" white: say it, as in dataset.white={2**bits - 1} if these are {bits} bits; 0 and less is black"
    )


def _usual_whites(depth: Depth) -> tuple[int, ...]:
    """What other programs take for white where a file of this depth does not say it."""
    if depth.kind == "f":
        return (1, 255, 65535)
    return {("u", 16): (65535,), ("i", 16): (255,), ("u", 32): (255, 65535), ("i", 32): (255, 65535)}.get(
        (depth.kind, depth.bits), ()
    )


def _is_true(white: float, by: str, values: NDArray[Any], brightest: float) -> bool:
    """Whether the white that a file declares is that of its values."""
    if by == "sBIT":  # by the standard such values are shifted up to fill 16 bits, and the bits below are empty
        return brightest <= white and bool((values.astype(int) & (2**16 // int(white + 1) - 1)).any())
    # a tag with a value that is no depth's may tell the brightest value of just this image
    return brightest < white or (
        brightest == white and (by != "tag" or white == 1 or (white + 1) in 2 ** np.arange(8, 33))
    )


def _scaled(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """0..white as 0..255, rounded; of 255 and 65535, which were always read, the whole part, and of 16 bits a byte."""
    if white == 65535 and values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return np.asarray(values >> 8, dtype=np.uint8)
    scaled = values * (1 / 257) if white == 65535 else np.asarray(values, dtype=np.float64) / white * 255
    return np.clip(scaled if white in (255, 65535) else np.rint(scaled), 0, 255).astype(np.uint8)


# --- samples ---


def _samples(image: Any, path: Path, depth: Depth, exact: bool) -> NDArray[Any]:
    """The file's own values, (H, W) or (H, W, channels); unless ``exact`` only their high bytes where these suffice."""
    if image.format == "PPM" and depth.kind == "u":
        return _netpbm(image, path)
    if len(image.getbands()) > 1:
        return _two_bytes(image, path, exact)
    values = np.asarray(image)
    if depth.kind == "u" and values.dtype == np.int32:  # Pillow knows signed ones only
        return values.view(np.uint32)
    return values.view(np.int8) if values.dtype == np.uint8 else values.astype(values.dtype.newbyteorder("="))


def _two_bytes(image: Any, path: Path, exact: bool) -> NDArray[np.uint16]:
    """Several channels of 16 bits, of which Pillow keeps the high byte: read again with the order of bytes turned."""
    modes = [_raw_mode(tile) for tile in image.tile]
    fixed = "RGBa" in modes[0] or (image.tile[0].codec_name == "libtiff" and image.tag_v2.get(_PLANAR) == 2)
    order = "L" if image.format == "TIFF" and image.tag_v2.prefix == b"II" else "B"
    if modes[0] == "LA;16B":  # no raw mode has its low bytes: read each byte as a channel
        image.tile = [_with_mode(tile, "RGBA") for tile in image.tile]
        both = np.asarray(image).astype(np.uint16)
        return np.asarray((both[..., ::2] << 8 | both[..., 1::2])[..., [0, 0, 0, 1]], np.uint16)
    whole = [mode if ";" in mode else f"{mode};16{order}" for mode in modes]  # planes are read as bytes otherwise
    image.tile = [_with_mode(tile, mode) for tile, mode in zip(image.tile, whole, strict=True)]
    high = np.asarray(np.asarray(image).astype(np.uint16) << 8, np.uint16)
    if not exact and high.max(initial=0) >= 2**14:
        return high
    if fixed:
        raise ValueError("16 bits that hold fewer cannot be read in this form: save it uncompressed, without alpha")
    again: Any
    with Image.open(path, formats=(image.format,)) as again:
        turned = [mode[:-1] + _OTHER_ORDER[mode[-1]] for mode in whole]
        again.tile = [_with_mode(tile, mode) for tile, mode in zip(again.tile, turned, strict=True)]
        return np.asarray(high | np.asarray(again), np.uint16)


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _with_mode(tile: Any, mode: str) -> Any:
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))


def _netpbm(image: Any, path: Path) -> NDArray[np.uint16]:
    """The values of a PGM or PPM of 16 bits, which Pillow scales by its largest value."""
    tile, shape = image.tile[0], (image.height, image.width, *[3][: len(image.getbands()) // 3])
    with path.open("rb") as file:
        file.seek(tile.offset)
        content = file.read()
    if tile.codec_name == "ppm_plain":
        numbers = re.sub(rb"#[^\n]*", b"", content).split()
        return np.array(numbers[: int(np.prod(shape))], dtype=np.uint16).reshape(shape)
    return np.frombuffer(content, ">u2", int(np.prod(shape))).reshape(shape).astype(np.uint16)


def _maxval(image: Any) -> int:
    """The largest value by a PGM's or PPM's header; 1 of a bitmap."""
    args = image.tile[0].args
    return 65535 if args == "I;16B" else int(args[1]) if isinstance(args, tuple) else 1


def _significant_bits(path: Path) -> int:
    """The most bits of a channel by a PNG's chunk sBIT, 16 without one."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            length = int.from_bytes(head[:4])
            if head[4:] == b"sBIT":
                return max(file.read(length), default=16)
            file.seek(length + 4, 1)
    return 16
