"""What a member sees of a whole image: to the pixel what timm and torchvision make of it in evaluation.

Artefacts carry the number of the `RULE` they were made by; those that carry none are of rule 1: bicubic whatever the
member says, the long edge rounded, always cut from the centre, an odd margin's smaller half above and on the left.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xconsensus.members.member import Member
from xconsensus.resampling import resized

RULE = 2


class Geometry(NamedTuple):
    """An image resized to ``width`` x ``height``, by no filter where it has that size, and cut from (left, top) on.

    A crop that reaches beyond the resized image has negative ``left`` or ``top``.
    """

    width: int
    height: int
    interpolation: str | None
    left: int
    top: int

    def __str__(self) -> str:
        resized = f"resized to {self.width}x{self.height}" + (f" ({self.interpolation})" if self.interpolation else "")
        return f"{resized} and cut from {self.left}, {self.top}"


def geometry(member: Member, width: int, height: int) -> Geometry:
    """How a member's crop is placed in an image of ``width`` x ``height`` pixels.

    Where its preprocessing is its library's, as do torchvision's ``Resize`` and ``CenterCrop``, and timm's
    ``ResizeKeepRatio`` and ``CenterCropOrPad``; else, and as PaddleClas does it, as what is explained.
    """
    if member.crop_mode == "center" and (not member.as_library or member.library == "paddle"):
        return geometry_in_training(member, width, height)
    resize, short = member.resize, min(width, height)
    match member.crop_mode:
        case "squash":
            wide, high = resize, resize
        case "border":
            wide, high = (max(1, round(edge / (max(width, height) / resize))) for edge in (width, height))
        case _:
            wide, high = (resize if edge == short else int(resize * edge / short) for edge in (width, height))
    interpolation = member.interpolation if (wide, high) != (width, height) else None
    return Geometry(wide, high, interpolation, _offset(wide, member.input_size), _offset(high, member.input_size))


def _offset(edge: int, size: int) -> int:
    return round((edge - size) / 2) if edge >= size else -((size - edge) // 2)


def geometry_in_training(member: Member, width: int, height: int) -> Geometry:
    """As `geometry` of members of no library: what training's crops are drawn from, with a crop in the centre."""
    before = geometry_of_rule_1(member, width, height)
    return before._replace(interpolation=before.interpolation and member.interpolation)


def geometry_of_rule_1(member: Member, width: int, height: int) -> Geometry:
    """As `geometry`, by the rule of before."""
    resize, size, short = member.resize, member.input_size, min(width, height)
    wide, high = (max(resize, round(edge * (resize / short))) for edge in (width, height))
    return Geometry(wide, high, "bicubic" if short != resize else None, (wide - size) // 2, (high - size) // 2)


def view(member: Member, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The member's input, RGB uint8 (input_size, input_size, 3), of a whole image (H, W, 3)."""
    width, height, interpolation, left, top = geometry(member, pixels.shape[1], pixels.shape[0])
    image = Image.fromarray(resized(pixels, width, height, interpolation) if interpolation else pixels)
    canvas = Image.new("RGB", (member.input_size, member.input_size), _fill(member))
    canvas.paste(image, (-left, -top))
    return np.asarray(canvas)


def _fill(member: Member) -> tuple[int, ...]:
    """The colour of what lies beyond the image."""
    return tuple(round(255 * value) for value in member.mean) if member.crop_mode == "border" else (0, 0, 0)


def pixels_by(member: Member) -> tuple[Any, ...]:
    """All that shapes what `view` gives: members of whom it is equal see the same pixels."""
    return (member.input_size, member.resize, member.interpolation, member.crop_mode, _fill(member))


def described(member: Member) -> str:
    """The member's preprocessing in words."""
    resize = member.resize
    way = {"squash": f"squashed to {resize}x{resize}", "border": f"long edge {resize}, borders added"}
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (member.mean, member.std))
    cut = f"{member.input_size}x{member.input_size} of {way.get(member.crop_mode, f'short edge {resize}')}"
    return f"{cut} ({member.interpolation}), mean {mean}, std {std}"


def rule_of_predictions(member: Member) -> Mapping[str, Any]:
    """What settings of predictions say of the rule: nothing where the member sees the same pixels as by rule 1."""
    mode = {"crop_mode": member.crop_mode} if member.crop_mode != "center" else {}
    return {"rule": RULE} | mode if mode or member.as_library or member.interpolation != "bicubic" else {}


def rule_of_training(member: Member) -> Mapping[str, Any]:
    """What settings of trained weights say of the rule: nothing where training reads the same pixels as by rule 1."""
    return {"rule": RULE} if member.interpolation != "bicubic" else {}
