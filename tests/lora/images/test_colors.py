"""Images of every mode are converted to the RGB colors that viewers display, with transparency on white."""

import io

import numpy as np
import pytest
from PIL import Image

from lora.images import colors
from lora.images.colors import rgb_on_white
from tests.tiny import encoded, noisy_image, solid_image

RED, WHITE = (200, 30, 60), (255, 255, 255)
RAMP = np.linspace(0, 1, 96)


def in_rgb(image, *, shrink_by=1):
    return rgb_on_white(image, shrink_by=shrink_by)


def opened(image, kind, **options):
    """The image after encoding and opening."""
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def grays_of(numbers):
    """The gray levels of a row of numbers after conversion."""
    with np.errstate(all="raise"):
        rgb = np.asarray(in_rgb(Image.fromarray(np.tile(numbers, (8, 1)))))
    assert (rgb == rgb[:1, :, :1]).all()
    return rgb[0, :, 0]


def palette(*colors_, **info):
    """A palette image with the first color on the left, and the second on the right."""
    image = solid_image(color=0, mode="P")
    image.putpalette([channel for color in colors_ for channel in color])
    image.paste(1, (48, 0, 96, 80))
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("mode", "color", "kind", "expected"),
    [
        ("1", 1, "PNG", WHITE),
        ("1", 0, "BMP", (0, 0, 0)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("L", 77, "JPEG", (77, 77, 77)),
        ("LA", (77, 255), "PNG", (77, 77, 77)),
        ("LA", (77, 0), "PNG", WHITE),
        ("LA", (0, 128), "TIFF", (127, 127, 127)),
        ("RGBA", (0, 0, 0, 0), "PNG", WHITE),
        ("RGBA", (0, 0, 0, 128), "PNG", (127, 127, 127)),
        ("RGBA", (0, 0, 0, 0), "GIF", WHITE),
        ("RGBA", (200, 30, 60, 0), "TIFF", WHITE),
        ("CMYK", (0, 0, 0, 0), "TIFF", WHITE),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
    ],
)
def test_every_mode_is_converted_to_rgb(mode, color, kind, expected):
    assert in_rgb(opened(solid_image(color=color, mode=mode), kind)).getpixel((5, 5)) == pytest.approx(expected, abs=6)


def test_the_inverted_cmyk_of_adobe_is_corrected():
    content = encoded(solid_image(color=(0, 255, 255, 0), mode="CMYK"), "JPEG")
    assert b"Adobe" in content
    assert in_rgb(Image.open(io.BytesIO(content))).getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=6)


@pytest.mark.parametrize(("transparency", "left"), [(None, RED), (0, WHITE), (b"\x00\xff", WHITE), (b"\x80", None)])
def test_a_palette_with_transparency_is_composited_on_white(transparency, left):
    info = {} if transparency is None else {"transparency": transparency}
    image = in_rgb(opened(palette(RED, (0, 0, 9)), "PNG", **info))
    assert image.getpixel((5, 5)) == (left or pytest.approx((227, 142, 157), abs=1))
    assert image.getpixel((90, 5)) == (0, 0, 9)


@pytest.mark.parametrize(("mode", "color"), [("L", 77), ("RGB", (200, 30, 60)), ("1", 0)])
def test_one_transparent_color_without_a_palette_is_white(mode, color):
    image = opened(solid_image(color=color, mode=mode), "PNG", transparency=color)
    assert in_rgb(image).getpixel((5, 5)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_brightness(kind):
    levels = np.tile((RAMP * 65535).astype(np.uint16), (8, 1))
    grays = np.asarray(in_rgb(opened(Image.fromarray(levels), kind)))[0, :, 0]
    assert np.abs(grays - RAMP * 255).max() <= 1


def test_a_dark_image_of_sixteen_bits_stays_dark():
    assert grays_of((RAMP * 2000).astype(np.uint16)).max() == 8


def test_big_endian_sixteen_bits_are_read():
    levels = np.tile((RAMP * 65535).astype(np.uint16), (8, 1))
    image = Image.frombytes("I;16B", (96, 8), levels.astype(">u2").tobytes())
    assert np.abs(np.asarray(in_rgb(image))[0, :, 0] - RAMP * 255).max() <= 1


def test_the_transparent_number_of_sixteen_bits_is_white():
    image = Image.fromarray(np.tile(np.array([0, 300, 65535], dtype=np.uint16), (8, 1)))
    image.info["transparency"] = 300
    assert [in_rgb(image).getpixel((x, 0))[0] for x in range(3)] == [0, 255, 255]


@pytest.mark.parametrize("white", [1, 255, 65535, 2**31 - 1])
def test_floats_are_scaled_by_their_range(white):
    assert np.abs(grays_of((RAMP * white).astype(np.float32)) - RAMP * 255).max() <= 1


@pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
def test_integers_are_scaled_by_their_range(white):
    assert np.abs(grays_of((RAMP * white).astype(np.int32)) - RAMP * 255).max() <= 1


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_levels_slightly_above_white_are_clipped(white):
    numbers = (RAMP * white * 1.2).astype(np.float32)
    assert np.abs(grays_of(numbers) - np.minimum(RAMP * 1.2, 1) * 255).max() <= 1


def test_negative_numbers_are_black():
    assert np.abs(grays_of((RAMP * 2 - 1).astype(np.float32)) - np.maximum(RAMP * 2 - 1, 0) * 255).max() <= 1
    assert grays_of((-RAMP).astype(np.float32)).max() == 0


@pytest.mark.parametrize(("special", "expected"), [(np.nan, 0), (np.inf, 255), (-np.inf, 0)])
def test_special_numbers_do_not_affect_other_pixels(special, expected):
    numbers = RAMP.astype(np.float32)
    numbers[10] = special
    grays = grays_of(numbers)
    assert grays[10] == expected
    assert np.abs(np.delete(grays - RAMP * 255, 10)).max() <= 1


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
def test_an_image_of_one_special_number_is_converted(number):
    assert len(set(grays_of(np.full(96, number, dtype=np.float32)).tolist())) == 1


def test_numbers_beyond_any_range_are_scaled_by_the_largest():
    assert np.abs(grays_of((RAMP * 1e30).astype(np.float32)) - RAMP * 255).max() <= 1


def test_an_rgb_image_is_returned_unchanged():
    image = solid_image()
    assert in_rgb(image) is image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK", "F"])
@pytest.mark.parametrize("shrink_by", [1, 3])
def test_conversion_in_bands_equals_conversion_at_once(mode, shrink_by, monkeypatch):
    image = noisy_image(97, 83).convert(mode)
    whole = in_rgb(image, shrink_by=shrink_by)
    monkeypatch.setattr(colors, "BAND_PIXELS", 700)
    assert in_rgb(image, shrink_by=shrink_by).tobytes() == whole.tobytes()
    assert whole.size == (-(-97 // shrink_by), -(-83 // shrink_by))


def test_a_reduced_image_has_the_means_of_squares():
    image = noisy_image(96, 80)
    means = np.asarray(image, dtype=float).reshape(20, 4, 24, 4, 3).mean((1, 3))
    assert np.abs(np.asarray(in_rgb(image, shrink_by=4)) - means).max() <= 0.5
