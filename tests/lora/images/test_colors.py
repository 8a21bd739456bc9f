"""Pixels of every kind become the colors that are seen, with white where they were transparent."""

import io

import numpy as np
import pytest
from PIL import Image

from lora.images import colors
from lora.images.colors import rgb_on_white
from tests.tiny import encoded, noisy_image, picture

RED, WHITE = (200, 30, 60), (255, 255, 255)
RAMP = np.linspace(0, 1, 96)


def shown(image, *, shrink_by=1):
    return rgb_on_white(image, shrink_by=shrink_by)


def stored(image, kind, **options):
    """As it comes out of a file."""
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def ramp_of(numbers):
    """The grays of a row of numbers, in an image that is wide enough."""
    with np.errstate(all="raise"):
        rgb = np.asarray(shown(Image.fromarray(np.tile(numbers, (8, 1)))))
    assert (rgb == rgb[:1, :, :1]).all()
    return rgb[0, :, 0]


def palette(*colors_, **info):
    """The first color on the left, the second on the right."""
    image = picture(color=0, mode="P")
    image.putpalette([channel for color in colors_ for channel in color])
    image.paste(1, (48, 0, 96, 80))
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("mode", "color", "kind", "seen"),
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
def test_every_mode_becomes_the_color_that_is_seen(mode, color, kind, seen):
    assert shown(stored(picture(color=color, mode=mode), kind)).getpixel((5, 5)) == pytest.approx(seen, abs=6)


def test_the_inverted_inks_of_adobe_are_turned_back():
    content = encoded(picture(color=(0, 255, 255, 0), mode="CMYK"), "JPEG")
    assert b"Adobe" in content
    assert shown(Image.open(io.BytesIO(content))).getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=6)


@pytest.mark.parametrize(("transparency", "left"), [(None, RED), (0, WHITE), (b"\x00\xff", WHITE), (b"\x80", None)])
def test_a_palette_is_laid_on_white(transparency, left):
    info = {} if transparency is None else {"transparency": transparency}
    image = shown(stored(palette(RED, (0, 0, 9)), "PNG", **info))
    assert image.getpixel((5, 5)) == (left or pytest.approx((227, 142, 157), abs=1))
    assert image.getpixel((90, 5)) == (0, 0, 9)


@pytest.mark.parametrize(("mode", "color"), [("L", 77), ("RGB", (200, 30, 60)), ("1", 0)])
def test_one_transparent_color_without_a_palette_is_white(mode, color):
    image = stored(picture(color=color, mode=mode), "PNG", transparency=color)
    assert shown(image).getpixel((5, 5)) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_brightness(kind):
    levels = np.tile((RAMP * 65535).astype(np.uint16), (8, 1))
    seen = np.asarray(shown(stored(Image.fromarray(levels), kind)))[0, :, 0]
    assert np.abs(seen - RAMP * 255).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark():
    assert ramp_of((RAMP * 2000).astype(np.uint16)).max() == 8


def test_sixteen_bits_of_the_other_byte_order_are_the_same():
    levels = np.tile((RAMP * 65535).astype(np.uint16), (8, 1))
    image = Image.frombytes("I;16B", (96, 8), levels.astype(">u2").tobytes())
    assert np.abs(np.asarray(shown(image))[0, :, 0] - RAMP * 255).max() <= 1


def test_the_transparent_number_of_sixteen_bits_is_white():
    image = Image.fromarray(np.tile(np.array([0, 300, 65535], dtype=np.uint16), (8, 1)))
    image.info["transparency"] = 300
    assert [shown(image).getpixel((x, 0))[0] for x in range(3)] == [0, 255, 255]


@pytest.mark.parametrize("white", [1, 255, 65535, 2**31 - 1])
def test_numbers_are_scaled_by_what_their_range_is(white):
    assert np.abs(ramp_of((RAMP * white).astype(np.float32)) - RAMP * 255).max() <= 1


@pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
def test_whole_numbers_are_too(white):
    assert np.abs(ramp_of((RAMP * white).astype(np.int32)) - RAMP * 255).max() <= 1


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_what_overshoots_white_a_little_is_white(white):
    numbers = (RAMP * white * 1.2).astype(np.float32)
    assert np.abs(ramp_of(numbers) - np.minimum(RAMP * 1.2, 1) * 255).max() <= 1


def test_numbers_below_nothing_are_black():
    assert np.abs(ramp_of((RAMP * 2 - 1).astype(np.float32)) - np.maximum(RAMP * 2 - 1, 0) * 255).max() <= 1
    assert ramp_of((-RAMP).astype(np.float32)).max() == 0


@pytest.mark.parametrize(("odd", "seen"), [(np.nan, 0), (np.inf, 255), (-np.inf, 0)])
def test_what_is_no_number_changes_no_other(odd, seen):
    numbers = RAMP.astype(np.float32)
    numbers[10] = odd
    grays = ramp_of(numbers)
    assert grays[10] == seen
    assert np.abs(np.delete(grays - RAMP * 255, 10)).max() <= 1


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
def test_nothing_but_one_odd_number_is_a_picture(number):
    assert len(set(ramp_of(np.full(96, number, dtype=np.float32)).tolist())) == 1


def test_numbers_beyond_any_range_are_scaled_by_the_largest():
    assert np.abs(ramp_of((RAMP * 1e30).astype(np.float32)) - RAMP * 255).max() <= 1


def test_rgb_is_given_back_as_it_is():
    image = picture()
    assert shown(image) is image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK", "F"])
@pytest.mark.parametrize("shrink_by", [1, 3])
def test_bands_are_the_same_as_the_whole(mode, shrink_by, monkeypatch):
    image = noisy_image(97, 83).convert(mode)
    whole = shown(image, shrink_by=shrink_by)
    monkeypatch.setattr(colors, "BAND_PIXELS", 700)
    assert shown(image, shrink_by=shrink_by).tobytes() == whole.tobytes()
    assert whole.size == (-(-97 // shrink_by), -(-83 // shrink_by))


def test_what_is_shrunk_is_the_mean_of_squares():
    image = noisy_image(96, 80)
    means = np.asarray(image, dtype=float).reshape(20, 4, 24, 4, 3).mean((1, 3))
    assert np.abs(np.asarray(shown(image, shrink_by=4)) - means).max() <= 0.5
