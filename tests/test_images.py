"""Image files of every kind against Pillow, geometry against torchvision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import paint
from numpy.typing import NDArray
from PIL import Image

from xconsensus.compat import torchvision
from xconsensus.datasets.images import (
    RESAMPLING,
    as_its_image,
    center_crop,
    read_mask,
    read_rgb,
    resize_and_crop,
    short_edge,
)
from xconsensus.errors import InputError

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
    assert set(RESAMPLING) == set(MODES)


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
        np.testing.assert_array_equal(read_rgb(path), np.asarray(again.convert("RGB")))


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
    with pytest.raises(InputError, match=r"x\.png.*palette.*grey levels"):
        read_mask(tmp_path / "x.png")


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
