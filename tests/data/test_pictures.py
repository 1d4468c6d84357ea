"""Pixels of pictures of all modes have the right values."""

import io

import numpy as np
import pytest
from PIL import Image

from dlreview.data.pictures import decode, read_picture


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight_by_rounding(kind):
    values = np.array([[0, 128, 129, 257], [40_000, 65_407, 65_406, 65_535]], np.uint16)
    pixels = read_picture(saved(Image.fromarray(values), kind))
    expected = np.round(values / 257)
    assert pixels.shape == (1, 2, 4) and (pixels[0] == expected).all()
    assert (decode(Image.fromarray(values.astype(np.int32)))[0] == expected).all()  # mode I
    assert (decode(Image.fromarray(values), channels=3) == expected).all()


def test_a_range_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="has mode F"):
        read_picture(saved(Image.fromarray(np.full((2, 2), 0.5, np.float32)), "TIFF"))
    for value in (-1, 65_536):
        picture = Image.fromarray(np.array([[0, value]], np.int32))
        with pytest.raises(ValueError, match=r"mode I and values from .*must be in 0..65535"):
            decode(picture)


def transparent():
    """Pictures of a red, a half red and a transparent pixel, in RGBA and with a palette."""
    rgba = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 128))
    rgba.putpixel((2, 0), (200, 0, 0, 0))
    palette = Image.new("P", (3, 1))
    palette.putpalette([200, 0, 0] * 3)
    palette.putdata([0, 1, 2])
    return [saved(rgba, "PNG"), saved(palette, "PNG", transparency=b"\xff\x80\x00")]


@pytest.mark.parametrize("number", [0, 1])
def test_transparent_pictures_are_on_white(number):
    file = transparent()[number]
    mixed = round(255 + (0 - 255) * 128 / 255)
    expected = [[200, 227, 255], [0, mixed, 255], [0, mixed, 255]]
    assert np.abs(read_picture(file)[:, 0] - np.array(expected, int)).max() <= 1
    grey = read_picture(file, channels=1)[0, 0]
    assert grey[2] == 255 and grey[0] == 60  # 0.299 x 200


def test_grey_with_alpha_or_a_transparent_value_is_on_white():
    two = Image.new("LA", (2, 1), (10, 255))
    two.putpixel((1, 0), (10, 0))
    assert read_picture(saved(two, "PNG")).tolist() == [[[10, 255]]]
    grey = Image.fromarray(np.array([[7, 8]], np.uint8))
    assert read_picture(saved(grey, "PNG", transparency=7)).tolist() == [[[255, 8]]]
    colour = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    pixels = read_picture(saved(colour, "PNG", transparency=(1, 2, 3)))
    assert pixels.transpose(1, 2, 0).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    deep = Image.fromarray(np.array([[257, 514]], np.uint16))
    deep.info["transparency"] = 257
    assert decode(deep).tolist() == [[[255, 2]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_pictures_are_upright(kind, tmp_path):
    wide = Image.new("L", (32, 16), 0)
    wide.paste(255, (16, 0, 32, 16))  # the right half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the right half becomes the lower half
    for picture in (wide, wide.convert("RGB")):
        file = tmp_path / f"turned.{kind}"
        picture.save(file, kind, exif=exif)
        pixels = read_picture(file, channels=1)[0]
        assert pixels.shape == (32, 16)
        assert pixels[:15].max() < 60 and pixels[17:].min() > 195


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("RGB", 3),
                           ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3)]
)  # fmt: skip
def test_channels_are_those_of_the_mode(mode, channels):
    picture = Image.new(mode, (4, 3))
    assert decode(picture).shape == (channels, 3, 4)
    assert decode(picture, channels=1, size=(5, 6)).shape == (1, 5, 6)
    assert decode(picture, channels=3).shape == (3, 3, 4)


def test_what_is_no_picture_is_refused(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG"):
        file = tmp_path / f"short.{kind}"
        file.write_bytes(saved(noise, kind)[:2000])
        with pytest.raises(ValueError, match=r"is a damaged picture: \w"):
            read_picture(file)
    with pytest.raises(ValueError, match=r"^is no picture$"):
        read_picture(b"text")
    with pytest.raises(ValueError, match="is no picture that can be read: No such file"):
        read_picture(tmp_path / "none.png")
