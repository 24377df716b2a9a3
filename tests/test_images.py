"""Image files of every kind against Pillow, geometry against torchvision."""

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import paint
from numpy.typing import NDArray
from PIL import Image

from xconsensus.compat import torchvision
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.imagefolder import ImageFolder
from xconsensus.datasets.images import (
    ImageFiles,
    as_its_image,
    center_crop,
    looks_inverted,
    read_mask,
    read_rgb,
    reads_otherwise,
    resize_and_crop,
    short_edge,
)
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError
from xconsensus.resampling import PILLOWS

MODES = {
    "bilinear": torchvision.transforms.InterpolationMode.BILINEAR,
    "bicubic": torchvision.transforms.InterpolationMode.BICUBIC,
    "nearest": torchvision.transforms.InterpolationMode.NEAREST,
}


def pixels(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(40, 60), (65, 33), (50, 50), (31, 93)])
def test_the_short_edge_is_resized_as_by_torchvision(mode: str, height: int, width: int) -> None:
    from torchvision.transforms.functional import resize

    given = pixels(height, width)
    expected = np.asarray(resize(Image.fromarray(given), 32, MODES[mode]))
    assert min(expected.shape[:2]) == 32
    np.testing.assert_array_equal(short_edge(given, 32, mode), expected)


@pytest.mark.parametrize(("height", "width"), [(61, 37), (37, 61), (31, 300), (1000, 999)])
def test_the_long_edge_keeps_the_aspect_to_within_half_a_pixel(height: int, width: int) -> None:
    found = short_edge(pixels(height, width), 32).shape[:2]
    assert min(found) == 32
    assert abs(max(found) - 32 * max(height, width) / min(height, width)) <= 0.5


def test_every_resampling_is_tested() -> None:
    assert set(PILLOWS) == set(MODES)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (32, 32), (64, 50)])
def test_the_crop_is_torchvision_s_wherever_the_margin_is_even(height: int, width: int) -> None:
    given = pixels(height, width)
    tensor = torch.from_numpy(given).permute(2, 0, 1)
    expected = torchvision.transforms.functional.center_crop(tensor, [32, 32]).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(center_crop(given, 32), expected)


@pytest.mark.parametrize(("height", "width"), [(45, 33), (33, 45), (73, 64)])
def test_an_odd_margin_is_split_to_within_a_pixel(height: int, width: int) -> None:
    rows, columns = np.mgrid[:height, :width]
    cut = center_crop(np.stack([rows, columns], -1).astype(np.uint8), 32)
    assert cut.shape == (32, 32, 2)
    margins = [(before, size - 32 - before) for before, size in zip(cut[0, 0].tolist(), (height, width), strict=True)]
    assert all(abs(before - after) <= 1 for before, after in margins)


def test_what_fits_already_is_not_resampled() -> None:
    given = pixels(32, 50)
    np.testing.assert_array_equal(resize_and_crop(given, 32, 32), given[:, 9:41])


def test_masks_are_resized_without_new_values() -> None:
    mask = np.zeros((37, 53), np.uint8)
    mask[10:20, 20:40] = 1
    found = resize_and_crop(mask, 64, 48, "nearest")
    assert found.shape == (48, 48)
    assert set(np.unique(found)) == {0, 1}


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "LAB"])
def test_opaque_modes_become_what_pillow_says(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(pixels()).convert(mode)
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "YCbCr", "LAB") else "x.png")
    image.save(path)
    with Image.open(path) as again:
        try:
            expected = np.asarray(again.convert("RGB"))
        except OSError as error:  # YCbCr in TIFF, before Pillow 13
            pytest.skip(f"this Pillow cannot read what it wrote: {error}")
    np.testing.assert_array_equal(read_rgb(path), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_white_and_opaque_ones_keep_their_colour(tmp_path: Path, mode: str) -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    opaque = Image.fromarray(pixels()).convert(mode.removesuffix("A").replace("P", "L"))
    image = opaque.convert("LA" if mode == "PA" else mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "x.png")
    found = read_rgb(tmp_path / "x.png")
    assert (found[:, :30] == 255).all()
    np.testing.assert_array_equal(found[:, 30:], np.asarray(opaque.convert("RGB"))[:, 30:])


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path: Path) -> None:
    indices = np.zeros((4, 6), np.uint8)
    indices[:, 3:] = 1
    image = Image.frombytes("P", (6, 4), indices.tobytes())
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "x.png", transparency=0)
    found = read_rgb(tmp_path / "x.png")
    assert (found[:, :3] == 255).all()
    assert (found[:, 3:] == (10, 20, 30)).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_keep_the_high_byte(tmp_path: Path, suffix: str) -> None:
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / f"x{suffix}")
    found = read_rgb(tmp_path / f"x{suffix}")
    assert np.abs(found[..., 0] - grey / 257.0).max() <= 1
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :16] = 255  # a corner: no two orientations look the same
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix, difference in ((".png", 0), (".jpg", 8)):
        path = tmp_path / f"x{suffix}"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
        found = read_rgb(path).astype(int)
        assert found.shape == upright.shape
        assert np.abs(found - upright).max() <= difference
        np.testing.assert_array_equal(read_mask(path).shape, upright.shape[:2])


def test_a_mask_keeps_its_values_and_palette_indices(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    paint(tmp_path / "grey.png", values)
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), values)
    palette = Image.frombytes("P", (6, 4), values.tobytes())
    palette.putpalette([255 - i // 3 for i in range(72)])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), values)


def test_a_one_bit_mask_is_black_and_white(tmp_path: Path) -> None:
    inside = np.eye(8, dtype=bool)
    Image.fromarray(inside).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png") > 0, inside)


@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
def test_grey_scans_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = pixels()[..., 0]
    stored = {
        3: upright[::-1, ::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    tifffile.imwrite(tmp_path / "x.tif", np.ascontiguousarray(stored), extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.tif")[..., 0], upright)
    assert reads_otherwise(tmp_path / "x.tif") == (orientation > 4)  # Pillow exchanges their sides


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_rgb(tmp_path / "x.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("read", [read_rgb, read_mask])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated", "header only", "folder"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_files_that_are_no_image_are_named(tmp_path: Path, read: type, damage: str, suffix: str) -> None:
    path = paint(tmp_path / f"bad{suffix}", pixels())
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        cut = {
            "empty": b"",
            "text": b"no image",
            "truncated": content[: len(content) // 2],
            "header only": content[:30],
        }
        path.write_bytes(cut[damage])
    with pytest.raises(InputError, match=f"bad{suffix}: cannot be read as an image") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_an_image_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = paint(tmp_path / "bomb.png", pixels())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2399)
    with pytest.raises(InputError, match=r"bomb\.png.*2400 pixels"):
        read_rgb(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2400)
    np.testing.assert_array_equal(read_rgb(path), pixels())


# --- more than 8 bits a channel ---

Writer = Callable[[Path, NDArray[np.float64]], Path]
SHARES = np.random.default_rng(0).uniform(0.2, 0.9, (20, 30, 4))  # of white, in four channels
GREY = SHARES[..., 0]


def png(white: int, channels: int = 1, significant: int = 0) -> Writer:
    """A PNG of 16 bits, written by its standard; Pillow writes none of colours."""

    def write(folder: Path, shares: NDArray[np.float64]) -> Path:
        values = np.rint((shares if channels == 1 else shares[..., :channels]) * white).astype(">u2")
        height, width = values.shape[:2]
        header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        chunks[1:1] = [(b"sBIT", bytes([significant] * channels))] * bool(significant)
        content = b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        (folder / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        return folder / "x.png"

    return write


def tiff(dtype: str, white: float, channels: int = 1, **options: Any) -> Writer:
    def write(folder: Path, shares: NDArray[np.float64]) -> Path:
        values = (shares if channels == 1 else shares[..., :channels]) * white
        values = (values if dtype[-2] == "f" else np.rint(values)).astype(dtype)
        order: Any = {"byteorder": ">"} if dtype[0] == ">" else {}
        if options.get("planarconfig") == "separate":
            values = values.transpose(2, 0, 1)
        default: Any = {"photometric": "rgb" if channels > 1 else "minisblack"}
        tifffile.imwrite(folder / "x.tiff", values, **default | order | options)
        return folder / "x.tiff"

    return write


def netpbm(white: int, maxval: int, channels: int = 1, plain: bool = False) -> Writer:
    def write(folder: Path, shares: NDArray[np.float64]) -> Path:
        values = np.rint((shares if channels == 1 else shares[..., :channels]) * white).astype(">u2")
        kind = (1 if channels == 1 else 2) + (1 if plain else 4)
        body = " ".join(map(str, values.ravel())).encode() if plain else values.tobytes()
        (folder / "x.ppm").write_bytes(b"P%d 30 20 %d\n" % (kind, maxval) + body)
        return folder / "x.ppm"

    return write


TOLD: dict[str, Writer] = {  # that white is, is told by the file
    "12 bits by sBIT": png(4095, significant=12),
    "12 bits by sBIT, colours": png(4095, 3, significant=12),
    "12 bits by sBIT, shifted up as the standard says": png(65520, significant=12),
    "12 bits by MaxSampleValue": tiff("<u2", 4095, extratags=[(281, 3, 1, 4095, True)]),
    "12 bits by MaxSampleValue, colours": tiff("<u2", 4095, 3, extratags=[(281, 3, 3, (4095,) * 3, True)]),
    "12 bits by maxval": netpbm(4095, 4095),
    "12 bits by maxval, colours": netpbm(4095, 4095, 3),
    "16 bits": tiff("<u2", 65535),
    "16 bits, the other order": tiff(">u2", 65535),
    "16 bits, colours": png(65535, 3),
    "16 bits, planes": tiff("<u2", 65535, 3, planarconfig="separate"),
    "16 bits, planes, compressed": tiff("<u2", 65535, 3, planarconfig="separate", compression="zlib"),
    "floats of 1": tiff("<f4", 1.0),
    "floats of 1, beyond it": tiff("<f4", 1.1),
    "floats of 255": tiff("<f4", 255.0),
    "floats of 65535": tiff("<f4", 65535.0),
    "32 bits of 255": tiff("<i4", 255),
    "32 bits of 65535": tiff("<u4", 65535),
}
ASKED: dict[str, tuple[Writer, float]] = {
    "12 bits": (png(4095), 4095),
    "8 bits in 16": (png(255), 255),
    "12 bits, grey and alpha": (png(4095, 2), 4095),
    "12 bits, colours": (png(4095, 3), 4095),
    "12 bits, colours and alpha": (png(4095, 4), 4095),
    "12 bits, TIFF": (tiff("<u2", 4095), 4095),
    "12 bits, the other order": (tiff(">u2", 4095), 4095),
    "12 bits, TIFF of colours": (tiff("<u2", 4095, 3), 4095),
    "12 bits, TIFF of colours, the other order": (tiff(">u2", 4095, 3), 4095),
    "12 bits, TIFF of colours, compressed": (tiff("<u2", 4095, 3, compression="zlib"), 4095),
    "12 bits, TIFF of planes": (tiff("<u2", 4095, 3, planarconfig="separate"), 4095),
    "12 bits, the brightest is no depth's": (
        tiff("<u2", 3000, extratags=[(281, 3, 1, round(GREY.max() * 3000), True)]),
        3000,
    ),
    "12 bits of 65535 by maxval": (netpbm(4095, 65535), 4095),
    "12 bits of 65535 by maxval, colours": (netpbm(4095, 65535, 3), 4095),
    "12 bits of 65535 by maxval, written out": (netpbm(4095, 65535, 3, plain=True), 4095),
    "signed 16 bits": (tiff("<i2", 32767), 32767),
    "signed 8 bits": (tiff("|i1", 127), 127),
    "32 bits": (tiff("<u4", 2**32 - 1), 2**32 - 1),
    "signed 32 bits": (tiff("<i4", 2**31 - 1), 2**31 - 1),
    "32 bits of 4095": (tiff("<i4", 4095), 4095),
    "floats of 4095": (tiff("<f4", 4095.0), 4095),
    "floats of 4": (tiff("<f4", 4.0), 4),
    "floats of a million": (tiff("<f4", 1e6), 1e6),
}


def expected(channels: int) -> NDArray[np.float64]:
    """The shares as 0..255 of RGB, what is transparent laid on white."""
    colours = SHARES[..., :3] if channels > 2 else np.repeat(SHARES[..., :1], 3, 2)
    alpha = SHARES[..., channels - 1 : channels] if channels in (2, 4) else 1.0
    return np.asarray(255 * (colours * alpha + 1 - alpha))


def channels_of(what: str) -> int:
    if "alpha" in what:
        return 2 if "grey" in what else 4
    return 3 if any(word in what for word in ("colours", "planes", "written out")) else 1


@pytest.mark.parametrize("what", TOLD)
def test_white_is_what_the_file_or_its_values_say(tmp_path: Path, what: str) -> None:
    path = TOLD[what](tmp_path, SHARES if channels_of(what) > 1 else GREY)
    right = np.minimum(expected(channels_of(what)) * (1.1 if "beyond" in what else 1), 255)
    assert np.abs(read_rgb(path) - right).max() <= 1.1


@pytest.mark.parametrize("what", ASKED)
def test_where_nothing_says_what_is_white_it_is_asked_for(tmp_path: Path, what: str) -> None:
    write, white = ASKED[what]
    path = write(tmp_path, SHARES if channels_of(what) > 1 else GREY)
    with pytest.raises(InputError, match=rf"{path.name}.*nothing tells.*dataset\.white=\d+") as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)
    assert reads_otherwise(path)
    assert np.abs(read_rgb(path, white) - expected(channels_of(what))).max() <= 1.1 + 128 / white


def test_a_white_that_is_not_that_of_the_file_is_refused(tmp_path: Path) -> None:
    path = png(65535)(tmp_path, GREY)
    with pytest.raises(InputError, match=r"x\.png.*most of its values lie above dataset\.white=4095"):
        read_rgb(path, 4095)
    with pytest.raises(InputError, match=r"x\.tiff.*black under dataset\.white=4095"):
        read_rgb(tiff("<f4", 1.0)(tmp_path, GREY), 4095)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    shares = GREY.copy()
    shares[3, 4] = value
    with pytest.raises(InputError, match=r"x\.tiff.*no numbers"):
        read_rgb(tiff("<f4", 1.0)(tmp_path, shares))


@pytest.mark.parametrize("whites", [(255.0, 1.0), (1.0, 255.0), (65535.0, 255.0)])
def test_files_of_one_data_set_that_tell_another_white_are_refused(tmp_path: Path, whites: tuple[float, float]) -> None:
    dataset, records = ImageFiles(), []
    for number, white in enumerate(whites):
        path = tiff("<f4", white)(tmp_path, GREY)
        records.append(Record(str(number), 0, str(path.rename(tmp_path / f"{number}.tiff"))))
    black = Record("black", 0, str(tiff("<f4", 0.0)(tmp_path, GREY)))
    assert not dataset.image(black).any()
    dataset.image(records[0])
    with pytest.raises(InputError, match=r"1\.tiff.*0\.tiff.*dataset\.white"):
        dataset.image(records[1])
    dataset.white = 65535.0 if 65535.0 in whites else 255.0
    dataset.image(records[whites.index(dataset.white)])
    ImageFiles().image(records[1])


def test_floats_in_colours_are_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    path = tiff("<f4", 1.0, 3)(tmp_path, GREY)
    with pytest.raises(InputError, match=r"x\.tiff.*floats in colours.*8 or 16 bits"):
        read_rgb(path)


def test_floats_of_both_signs_are_not_taken_for_0_to_1(tmp_path: Path) -> None:
    path = tiff("<f4", 1.0)(tmp_path, 2 * GREY - 1)
    with pytest.raises(InputError, match=r"from -0\.59\d* to .*dataset\.white"):
        read_rgb(path)


def test_black_is_black_in_every_depth(tmp_path: Path) -> None:
    for write in (png(65535), tiff("<u2", 4095), tiff("<f4", 1.0), tiff("<u4", 255)):
        assert not read_rgb(write(tmp_path, np.zeros((20, 30)))).any()


def test_where_zero_is_white_it_is(tmp_path: Path) -> None:
    path = tiff("<u2", 65535, photometric="miniswhite")(tmp_path, 1 - GREY)
    assert np.abs(read_rgb(path) - expected(1)).max() <= 1.01


@pytest.mark.parametrize("orientation", [3, 6])
def test_deep_photographs_are_turned_upright_too(tmp_path: Path, orientation: int) -> None:
    turned = {3: GREY[::-1, ::-1], 6: np.rot90(GREY, 1)}[orientation]
    path = tiff("<u2", 4095, extratags=[(274, 3, 1, orientation, True)])(tmp_path, np.ascontiguousarray(turned))
    assert np.abs(read_rgb(path, 4095) - expected(1)).max() <= 1.01


@pytest.mark.parametrize(
    "what", ["16 bits", "16 bits, colours", "12 bits by maxval", "12 bits by maxval, colours", "floats of 255"]
)
def test_what_was_read_right_is_read_as_before(tmp_path: Path, what: str) -> None:
    path = TOLD[what](tmp_path, SHARES if channels_of(what) > 1 else GREY)
    assert not reads_otherwise(path)
    assert reads_otherwise(TOLD["floats of 1"](tmp_path, GREY))


def test_files_of_8_bits_are_not_decoded_to_know_that_they_are_read_as_before(tmp_path: Path) -> None:
    path = paint(tmp_path / "x.png", pixels())
    path.write_bytes(path.read_bytes()[:60])  # the header and no pixels
    assert not reads_otherwise(path)


# --- thin images ---


def test_an_image_that_resizing_makes_huge_is_named_or_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, shape in (("thin", (1, 60000, 3)), ("long", (9000, 2, 3)), ("wide", (32, 3200, 3))):
        paint(tmp_path / f"a/{name}.png", np.zeros(shape, np.uint8))
    dataset = ImageFolder(root=str(tmp_path), splits={"test": "."})
    long, thin, wide = dataset.records("test")
    images = CroppedImages(dataset, 256, 224)
    assert images.image(wide).shape == (224, 224, 3)
    for record in (long, thin):
        with pytest.raises(InputError, match=rf"{record.path}.*million"):
            images.image(record)
    monkeypatch.setattr("xconsensus.progress.log.propagate", True)
    caplog.set_level("INFO", "xconsensus")
    assert CroppedImages(dataset, 256, 224, skip_bad=True).usable([long, thin, wide]) == [wide]
    assert "2 of 3 images skipped" in caplog.text
    # one that a member's larger size makes huge is left out for all stages alike
    with pytest.raises(InputError, match="none of the 1 images"):
        CroppedImages(dataset, 256, 224, skip_bad=True, largest=900).usable([wide])


# --- masks ---

OBJECT = np.zeros((12, 10), np.uint8)
OBJECT[3:8, 2:6] = 255


def in_alpha(colour: str, mode: str = "RGBA") -> Image.Image:
    image = Image.new("RGB", (10, 12), colour).convert(mode)
    image.putalpha(Image.fromarray(OBJECT))
    return image


def in_colour(*rgb: int) -> Image.Image:
    return Image.fromarray((OBJECT[..., None] // 255 * np.array(rgb)).astype(np.uint8))


def with_transparency(indices: NDArray[np.uint8], transparent: int) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([0, 0, 0, 90, 0, 0, 0, 90, 0])
    image.info["transparency"] = transparent
    return image


FORMS = {
    "alpha of black": in_alpha("black"),
    "alpha of white": in_alpha("white"),
    "alpha of grey": in_alpha("white", "LA"),
    "constant alpha": in_colour(255, 255, 255).convert("RGBA"),
    "pure blue": in_colour(0, 0, 255),
    "dark blue": in_colour(0, 0, 3),
    "16 bits": Image.fromarray(OBJECT.astype(np.uint16) * 2),
    "16 bits, one": Image.fromarray(OBJECT.astype(np.uint16) // 255),
    "transparent background": with_transparency(OBJECT // 255 * 2, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_is_found_in_whatever_form_it_was_saved(tmp_path: Path, form: str) -> None:
    FORMS[form].save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png") > 0, OBJECT > 0)


def test_a_mask_of_floats_from_0_to_1_is_scaled(tmp_path: Path) -> None:
    Image.fromarray((OBJECT / 255 * 0.6).astype(np.float32)).save(tmp_path / "x.tiff")
    np.testing.assert_array_equal(read_mask(tmp_path / "x.tiff") > 127, OBJECT > 0)


def test_a_palette_whose_transparency_says_otherwise_is_refused(tmp_path: Path) -> None:
    with_transparency(OBJECT // 255, 1).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png.*transparency.*grey levels"):
        read_mask(tmp_path / "x.png")


def test_grey_levels_whose_transparency_says_otherwise_are_refused(tmp_path: Path) -> None:
    Image.fromarray(OBJECT).save(tmp_path / "x.png", transparency=255)
    with pytest.raises(InputError, match=r"x\.png.*transparency.*grey levels"):
        read_mask(tmp_path / "x.png")
    Image.fromarray(OBJECT).save(tmp_path / "y.png", transparency=0)
    np.testing.assert_array_equal(read_mask(tmp_path / "y.png"), OBJECT)


def test_void_in_a_mask_of_colours_is_refused(tmp_path: Path) -> None:
    in_colour(224, 224, 192).save(tmp_path / "x.png")
    assert (read_mask(tmp_path / "x.png", 255) > 0).any()
    with pytest.raises(InputError, match=r"x\.png.*colours.*mask_void=224"):
        read_mask(tmp_path / "x.png", 224)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("own", [None, 1])
def test_a_mask_is_turned_as_its_image_where_it_has_no_orientation_of_its_own(
    tmp_path: Path, orientation: int, own: int | None
) -> None:
    stored = pixels(20, 30)[..., 0]
    exif, of_mask = Image.Exif(), Image.Exif()
    exif[0x0112] = orientation
    if own:
        of_mask[0x0112] = own
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "mask.png", exif=of_mask)
    upright = read_rgb(tmp_path / "photo.png")[..., 0]  # as Pillow turns it
    found = as_its_image(read_mask(tmp_path / "mask.png"), tmp_path / "mask.png", tmp_path / "photo.png", upright.shape)
    np.testing.assert_array_equal(found, stored if own else upright)


def test_booleans_by_tifffile_are_the_mask_though_written_as_black(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xconsensus.progress.log.propagate", True)
    monkeypatch.setattr("xconsensus.progress._said", set())
    caplog.set_level("INFO", "xconsensus")
    for name, compression in (("plain", None), ("deflate", "zlib")):
        tifffile.imwrite(tmp_path / f"{name}.tif", OBJECT > 0, compression=compression)
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.tif") > 0, OBJECT > 0)
    assert not caplog.records
    # others write what looks white, and a line says what is taken
    bits = Image.fromarray(OBJECT > 0)
    bits.save(tmp_path / "fax.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "fax.tif") as shown:
        np.testing.assert_array_equal(read_mask(tmp_path / "fax.tif"), np.asarray(shown) * 255)
    assert re.search(r"fax\.tif: declares 0 to be white.*dataset\.mask_invert=true", caplog.text)


def test_colours_number_that_programs_gave_a_palette_do_not_turn_the_mask(tmp_path: Path) -> None:
    for name, number in (("reduced", 2), ("adaptive", 4)):
        few = in_colour(250, 40, 0) if name == "reduced" else Image.fromarray(OBJECT)
        few.convert("RGB").quantize(number).save(tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.mode == "P"
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png") > 0, OBJECT > 0)


def with_palette(indices: NDArray[np.uint8], *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    image.putpalette([level for colour in colours for level in colour])
    return image


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (200, 0, 0)


@pytest.mark.parametrize(
    ("colours", "object_index"),
    [((WHITE, BLACK), 0), ((BLACK, WHITE), 1), ((WHITE, RED), 1), ((RED, BLACK), 0), ((BLACK, BLACK), 1)],
)
def test_black_is_never_the_object_where_another_index_than_0_shows_it(
    tmp_path: Path, colours: tuple[tuple[int, int, int], ...], object_index: int
) -> None:
    indices = np.where(OBJECT > 0, object_index, 1 - object_index).astype(np.uint8)
    with_palette(indices, *colours).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png") > 0, OBJECT > 0)


def test_a_palette_that_leaves_open_what_is_the_object_is_refused(tmp_path: Path) -> None:
    several = OBJECT // 255
    several[0, 0] = 2
    with_palette(several, WHITE, BLACK, RED).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png.*index 1 black.*grey levels"):
        read_mask(tmp_path / "x.png")
    with_palette(OBJECT // 255, WHITE, BLACK).save(tmp_path / "y.png")
    with pytest.raises(InputError, match=r"y\.png.*index 1 black.*grey levels"):
        read_mask(tmp_path / "y.png", void=1)


def test_of_several_frames_the_first_is_the_mask_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xconsensus.progress.log.propagate", True)
    monkeypatch.setattr("xconsensus.progress._said", set())
    caplog.set_level("INFO", "xconsensus")
    first, second = Image.fromarray(OBJECT), Image.fromarray(255 - OBJECT)
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_mask(tmp_path / "x.tif"), OBJECT)
    assert re.search(r"x\.tif: holds 2 frames", caplog.text)


@pytest.mark.parametrize("shape", [(5, 7), (60, 80), (224, 100)])
def test_an_object_surrounded_by_background_looks_inverted_only_inverted(shape: tuple[int, int]) -> None:
    rows, columns = np.indices(shape) / np.array(shape).reshape(2, 1, 1) - 0.5
    inside, landscape = np.hypot(rows, columns) < 0.3, rows > 0.1
    for mask in (inside, landscape, np.hypot(rows, columns) < 0.6, np.zeros(shape, bool)):
        assert not looks_inverted(mask)
    assert looks_inverted(~inside)
    assert not looks_inverted(np.ones(shape, bool))
