"""A mask selects white pixels, bright levels, or the painted pixels if there is transparency."""

import numpy as np
import pytest
from PIL import Image

from lora.images import colors
from lora.images.masks import binarize, fit_mask, on_white, open_mask
from lora.images.size import Size
from tests.tiny import encoded, write

LEFT = np.repeat([[True] * 48 + [False] * 48], 80, axis=0)  # the selection, [80, 96]


def selects_left_half(path):
    return np.array_equal(np.asarray(binarize(open_mask(path))) == 255, LEFT)


def painted(mode, *, selected, other):
    image = Image.new(mode, (96, 80), other)
    image.paste(selected, (0, 0, 48, 80))
    return image


@pytest.mark.parametrize(
    "image",
    [
        painted("L", selected=255, other=0),
        painted("1", selected=1, other=0),
        painted("RGB", selected="white", other="black"),
        painted("RGB", selected="white", other="black").quantize(2),
        painted("LA", selected=(255, 255), other=(0, 255)),
        painted("RGBA", selected="white", other="black"),
    ],
    ids=lambda image: image.mode,
)
def test_white_pixels_of_a_mask_are_selected(tmp_path, image):
    assert selects_left_half(write(tmp_path / "mask.png", encoded(image)))


def test_16_bits_are_scaled(tmp_path):
    """D16: 300 of 65535 is black, and 40000 is white."""
    numbers = np.where(LEFT, 40000, 300).astype(np.uint16)
    Image.fromarray(numbers).save(tmp_path / "mask.png")
    assert selects_left_half(tmp_path / "mask.png")


@pytest.mark.parametrize("paint", [(255, 255, 255, 255), (255, 0, 0, 255), (0, 0, 0, 255)])
def test_the_painted_pixels_of_a_mask_with_transparency_are_selected(tmp_path, paint):
    image = painted("RGBA", selected=paint, other=(255, 255, 255, 0))
    assert selects_left_half(write(tmp_path / "mask.png", encoded(image))), "red is dark, and black is darker"


def test_a_mask_is_the_same_if_it_is_converted_in_bands(tmp_path, monkeypatch):
    path = write(tmp_path / "mask.png", encoded(painted("RGBA", selected=(9, 9, 9, 200), other=(0, 0, 0, 0))))
    monkeypatch.setattr(colors, "BAND_PIXELS", 7 * 96)
    assert selects_left_half(path)


def test_black_paint_beside_white_paint_is_not_selected(tmp_path):
    assert selects_left_half(write(tmp_path / "mask.png", encoded(painted("RGBA", selected="white", other="black"))))


def test_the_exif_orientation_of_a_mask_is_applied(tmp_path):
    image = painted("L", selected=255, other=0)
    exif = image.getexif()
    exif[0x0112] = 3
    mask = open_mask(write(tmp_path / "mask.jpg", encoded(image, "JPEG", exif=exif)))
    assert np.array_equal(np.asarray(binarize(mask)) == 255, ~LEFT)


@pytest.mark.parametrize(("content", "reason"), [(b"no image", "not a JPEG"), (b"\x89PNG\r\n\x1a\n", "not a JPEG")])
def test_a_file_that_is_not_an_image_is_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        open_mask(write(tmp_path / "mask.png", content))


@pytest.mark.parametrize("size", [Size(128, 96), Size(1000, 750), Size(96, 96), Size(64, 48)])
@pytest.mark.parametrize("enlarged", [1, 2])
def test_a_small_spot_is_preserved_at_any_size(size, enlarged):
    """D17: also if the mask is larger than the image, and if parts of the image are cropped."""
    mask = Image.new("L", (1000 * enlarged, 750 * enlarged))
    mask.paste(255, (500, 400, 503, 403))
    fitted = fit_mask(mask, Size(1000, 750), size)
    assert fitted.size == (size.width, size.height)
    numbers = np.asarray(fitted)
    assert set(np.unique(numbers)) == {0, 255}
    assert (numbers > 0).sum() <= 16


def test_dark_gray_is_black():
    assert fit_mask(Image.new("L", (96, 80), 100), Size(96, 80), Size(48, 40)).getextrema() == (0, 0)


def test_an_image_is_kept_from_half_of_the_mask_on_and_fades_into_white_below():
    image, levels = Image.new("RGB", (256, 1), (100, 0, 50)), np.arange(256, dtype=np.uint8)[None]
    found = np.asarray(on_white(image, Image.fromarray(levels))).astype(int)[0]
    assert found[0].tolist() == [255, 255, 255]
    assert (found[128:] == (100, 0, 50)).all()
    assert found[64].tolist() == pytest.approx([178, 128, 153], abs=2)
    assert (np.diff(found, axis=0) <= 0).all()
