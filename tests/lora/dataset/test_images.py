"""Every kind of image file becomes the picture that a person sees in it, or one reason why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lora.dataset import images
from lora.dataset.images import open_picture
from tests.tiny import assert_one_sentence, encoded, noisy_picture, picture, write

RED, WHITE = (200, 30, 60), (255, 255, 255)
ORIENTATION = 0x0112


def opened(tmp_path, content):
    return open_picture(write(tmp_path / "000000", content))


def reason(tmp_path, content):
    with pytest.raises(ValueError) as error:
        opened(tmp_path, content)
    assert_one_sentence(error.value)
    assert str(tmp_path) not in str(error.value)
    return str(error.value)


def half_red(orientation):
    """Red on the left as it is stored; its EXIF says how it is to be turned."""
    image = picture(96, 80, color=WHITE)
    image.paste(RED, (0, 0, 48, 80))
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    return encoded(image, "PNG", exif=exif)


def png_of(width, height):
    """A PNG that is hardly more than a header which names a size."""

    def chunk(kind, data):
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_read_whatever_the_name(tmp_path, kind):
    image = opened(tmp_path, encoded(picture(), kind))
    assert (image.mode, image.size) == ("RGB", (96, 80))
    assert image.getpixel((5, 5)) == pytest.approx(RED, abs=8)


def test_odd_exif_beside_the_orientation_does_no_harm(tmp_path):
    """Pillow reads such tags, and cannot write them again."""
    image = picture(96, 80)
    exif = image.getexif()
    exif[ORIENTATION] = 6
    exif[0x011A] = 72.0  # XResolution
    content = encoded(image, "JPEG", exif=exif)
    rational, text = struct.pack("<HH", 0x011A, 5), struct.pack("<HH", 0x011A, 2)
    odd = content.replace(rational, text).replace(rational[1::-1] + b"\0\5", text[1::-1] + b"\0\2")
    assert odd != content
    assert opened(tmp_path, odd).size == (80, 96)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(tmp_path, kind):
    assert reason(tmp_path, encoded(picture(), kind)) == "not a JPEG, PNG or WEBP image"


@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [
        (1, (96, 80), (0, 0)),
        (2, (96, 80), (95, 0)),
        (3, (96, 80), (95, 79)),
        (6, (80, 96), (40, 0)),
        (8, (80, 96), (40, 95)),
    ],
)
def test_a_picture_is_turned_as_its_camera_says(tmp_path, orientation, size, red_at):
    image = opened(tmp_path, half_red(orientation))
    assert image.size == size
    assert image.getpixel(red_at) == RED
    assert image.getpixel((size[0] - 1 - red_at[0], size[1] - 1 - red_at[1])) in {WHITE, RED}
    assert image.getcolors() == [(3840, RED), (3840, WHITE)] or image.getcolors() == [(3840, WHITE), (3840, RED)]


def test_an_orientation_that_does_not_exist_is_ignored(tmp_path):
    assert opened(tmp_path, half_red(99)).size == (96, 80)


def test_transparency_is_laid_on_white(tmp_path):
    image = opened(tmp_path, encoded(picture(color=(0, 0, 0, 0), mode="RGBA")))
    assert image.getpixel((5, 5)) == WHITE
    half = opened(tmp_path, encoded(picture(color=(0, 0, 0, 128), mode="RGBA")))
    assert half.getpixel((5, 5)) == (127, 127, 127)


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path):
    image = picture(color=0, mode="P")
    image.putpalette([0, 0, 0, 200, 30, 60])
    image.paste(1, (0, 0, 48, 80))
    shown = opened(tmp_path, encoded(image, transparency=0))
    assert shown.getpixel((5, 5)) == RED
    assert shown.getpixel((90, 5)) == WHITE


@pytest.mark.parametrize(
    ("mode", "color", "kind", "shown"),
    [
        ("P", 0, "PNG", (0, 0, 0)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("LA", (77, 255), "PNG", (77, 77, 77)),
        ("LA", (77, 0), "PNG", WHITE),
        ("1", 1, "PNG", WHITE),
        ("L", 77, "JPEG", (77, 77, 77)),
        ("CMYK", (0, 0, 0, 0), "JPEG", WHITE),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
    ],
)
def test_every_mode_becomes_the_colour_that_is_seen(tmp_path, mode, color, kind, shown):
    image = picture(color=color, mode=mode)
    if mode == "P":
        image.putpalette([0, 0, 0])
    assert opened(tmp_path, encoded(image, kind)).getpixel((5, 5)) == pytest.approx(shown, abs=6)


def test_sixteen_bits_keep_their_brightness(tmp_path):
    levels = np.linspace(0, 65535, 96, dtype=np.uint16)
    image = opened(tmp_path, encoded(Image.fromarray(np.tile(levels, (80, 1)))))
    seen = np.asarray(image)[0, :, 0].astype(int)
    assert np.abs(seen - levels // 256).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(63, 80, "too small"), (1, 1, "too small"), (64, 513, "too long"), (20_000, 100, "too long")],
)
def test_a_shape_that_cannot_be_trained_is_refused(tmp_path, width, height, found):
    message = reason(tmp_path, encoded(picture(width, height, color=0, mode="1")))
    assert f"{width}x{height} is {found}" in message


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_a_giant_is_refused_by_its_header(tmp_path, side):
    reason(tmp_path, png_of(side, side))


def test_our_limit_of_pixels_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 5000)
    assert "96x80 is too large: expected at most 5,000 pixels" in reason(tmp_path, encoded(picture()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_file_cut_off_is_refused(tmp_path, kind, share):
    content = encoded(noisy_picture(), kind)
    reason(tmp_path, content[: int(len(content) * share)])


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"<svg/>"])
def test_what_is_no_image_is_refused(tmp_path, content):
    assert reason(tmp_path, content) == "not a JPEG, PNG or WEBP image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_anywhere_is_a_reason_or_a_picture_and_never_a_crash(tmp_path, kind):
    image = noisy_picture(64, 64)
    exif = image.getexif()
    exif[ORIENTATION] = 6
    content = encoded(image, kind, exif=exif)
    random = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(content)
        for at in random.integers(0, min(len(content), 400), size=3):
            broken[at] = random.integers(256)
        path = write(tmp_path / "000000", bytes(broken))
        try:
            assert open_picture(path).mode == "RGB"
        except ValueError as error:
            assert_one_sentence(error)


def test_only_the_first_picture_of_an_animation_is_taken(tmp_path):
    file = io.BytesIO()
    picture().save(file, "WEBP", save_all=True, append_images=[picture(color=(0, 255, 0))], lossless=True)
    assert opened(tmp_path, file.getvalue()).getpixel((5, 5)) == RED
