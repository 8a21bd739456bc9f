"""A cut-out is an image of which some is visible and some is transparent: its opacity is a mask, and it is on white."""

import numpy as np
import pytest
from PIL import Image

from lora.images import colors
from lora.images.files import open_image
from lora.images.masks import open_opacity
from tests.tiny import assert_one_sentence, encoded, write

RED, WHITE = (200, 30, 60), (255, 255, 255)


def cut_out(*, inside=255, outside=0, mode="RGBA"):
    """Red, of this opacity in the left half, and of that one in the right half, where green is hidden."""
    image = Image.new("RGBA", (96, 80), (*RED, inside))
    image.paste((0, 255, 0, outside), (48, 0, 96, 80))
    return image.convert(mode)


def opened(tmp_path, content):
    return open_image(write(tmp_path / "image", content), finds_cutouts=True)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_hidden_is_white_and_not_what_the_file_has_there(tmp_path, kind):
    found = opened(tmp_path, encoded(cut_out(), kind, lossless=True))
    assert found.is_cutout
    assert found.image.getpixel((20, 40)) == RED
    assert found.image.getpixel((70, 40)) == WHITE


def test_without_masks_an_image_is_no_cutout_and_the_same(tmp_path):
    found = open_image(write(tmp_path / "image", encoded(cut_out())))
    assert not found.is_cutout
    assert found.image.tobytes() == opened(tmp_path, encoded(cut_out())).image.tobytes()


@pytest.mark.parametrize(
    "image",
    [
        cut_out(outside=255),
        cut_out(outside=252),  # as lossy formats round
        cut_out(mode="RGB"),
        cut_out(inside=90, outside=90),  # a watermark: nothing of it is a subject
    ],
    ids=["opaque", "nearly opaque", "no alpha", "faint"],
)
def test_an_image_that_hides_nothing_is_no_cutout(tmp_path, image):
    content = encoded(image)
    found = opened(tmp_path, content)
    assert not found.is_cutout
    assert found.image.tobytes() == open_image(write(tmp_path / "plain", content)).image.tobytes()


def test_an_image_of_which_nothing_is_visible_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        opened(tmp_path, encoded(cut_out(inside=0)))
    assert_one_sentence(error.value, "all of it is transparent: expected something to see")


def test_soft_edges_are_kept_in_the_opacity(tmp_path):
    levels = np.asarray(open_opacity(write(tmp_path / "image", encoded(cut_out(outside=77)))))
    assert (levels[:, :48] == 255).all()
    assert (levels[:, 48:] == 77).all()


GREEN_BESIDE_RED = cut_out(outside=255).convert("RGB")
IN_16_BITS = Image.fromarray(np.repeat([[40_000] * 48 + [7] * 48], 80, axis=0).astype(np.uint16))


@pytest.mark.parametrize(
    ("image", "hidden"),
    [
        (GREEN_BESIDE_RED.quantize(2), GREEN_BESIDE_RED.quantize(2).getpixel((70, 40))),
        (GREEN_BESIDE_RED, (0, 255, 0)),
        (IN_16_BITS, 7),
    ],
    ids=["palette", "RGB", "16 bits"],
)
def test_a_transparent_color_hides_its_pixels(tmp_path, image, hidden):
    content = encoded(image, transparency=hidden)
    found = opened(tmp_path, content)
    assert found.is_cutout
    assert found.image.getpixel((70, 40)) == WHITE
    levels = np.asarray(open_opacity(write(tmp_path / "opacity", content)))
    assert levels[40, 20] == 255
    assert levels[40, 70] == 0


def test_the_opacity_is_upright_and_the_same_if_it_is_read_in_bands(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated clockwise when it is shown
    path = write(tmp_path / "image", encoded(cut_out(), exif=exif))
    expected = np.asarray(cut_out().getchannel("A").rotate(-90, expand=True))
    assert np.array_equal(np.asarray(open_opacity(path)), expected)
    monkeypatch.setattr(colors, "BAND_PIXELS", 7 * 96)
    assert np.array_equal(np.asarray(open_opacity(path)), expected)
