"""Every kind of image file becomes the picture that a person sees in it, or one reason why not.

tests/data/*.heic were written by pillow-heif 1.8: `quadrants()` turned on its side with the EXIF and the `irot` and
`imir` that a phone writes, half of it transparent, a second picture behind it, and a ramp of grays in 10 bits.
"""

import struct
import time
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from lora.images import files as images
from lora.images.files import is_image, open_image, quiet_pillow
from lora.images.size import Size, cover_scale
from tests.tiny import assert_one_sentence, encoded, noisy_image, picture, write

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
DATA = Path(__file__).parents[2] / "data"
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
# how an upright picture is stored so that its EXIF turns it back
STORED = images.EXIF_TRANSPOSES | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def opened(tmp_path, content):
    return open_image(write(tmp_path / "000000", content))


def reason(tmp_path, content):
    with pytest.raises(ValueError) as error:
        opened(tmp_path, content)
    assert_one_sentence(error.value)
    assert str(tmp_path) not in str(error.value)
    return str(error.value)


def quadrants(width=96, height=80):
    """Red and green above blue and white."""
    image = picture(width, height, color=WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def turned(image, kind, orientation, **options):
    """The file of a picture on its side, whose EXIF says so."""
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    stored = image.transpose(STORED[orientation]) if orientation in STORED else image
    return encoded(stored, kind, exif=exif, **options)


def heic(name="orientation-1"):
    return (DATA / f"{name}.heic").read_bytes()


def sample(kind):
    """A small file of a format."""
    return heic("orientation-6") if kind == "HEIC" else encoded(noisy_image(64, 64), kind)


def difference(image, other):
    return np.abs(np.asarray(image, dtype=int) - np.asarray(other, dtype=int)).mean()


def png_of(width, height):
    """A PNG that is a header alone, which names a size."""
    header = b"IHDR" + struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">L", zlib.crc32(header)) + b"\0\0\0\1IDAT"


def with_size(content, after, form, width, height):
    """A file whose header lies about its size."""
    at = content.index(after) + len(after)
    return content[:at] + struct.pack(form, width, height) + content[at + struct.calcsize(form) :]


@pytest.mark.parametrize("kind", [*KINDS, "MPO"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a"])
def test_the_content_makes_the_format_whatever_the_name(tmp_path, kind, name):
    path = write(tmp_path / name, encoded(quadrants(), kind))
    assert is_image(path)
    found = open_image(path)
    assert (found.image.mode, found.original, found.is_animated) == ("RGB", Size(96, 80), False)
    assert difference(found.image, quadrants()) < 6


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO")] + [("TIFF", {"compression": "tiff_lzw"})],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(tmp_path, kind, options, orientation):
    found = opened(tmp_path, turned(quadrants(), kind, orientation, **options))
    assert found.original == Size(96, 80)
    assert difference(found.image, quadrants()) < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once(orientation):
    found = open_image(DATA / f"orientation-{orientation}.heic")
    assert found.original == Size(96, 80)
    assert difference(found.image, quadrants()) < 6


def test_an_orientation_that_does_not_exist_is_ignored(tmp_path):
    assert opened(tmp_path, turned(quadrants(), "PNG", 99)).original == Size(96, 80)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_exif_that_cannot_be_read_says_nothing(tmp_path, kind, exif):
    assert opened(tmp_path, encoded(quadrants(), kind, exif=exif)).original == Size(96, 80)


def test_odd_exif_beside_the_orientation_does_no_harm(tmp_path):
    """Pillow reads such tags, and cannot write them again."""
    exif = picture().getexif()
    exif[ORIENTATION] = 6
    exif[0x011A] = 72.0  # XResolution
    content = encoded(picture(), "JPEG", exif=exif)
    odd = content.replace(b"\x01\x1a\0\5", b"\x01\x1a\0\2")  # of another type
    assert odd != content
    assert opened(tmp_path, odd).image.size == (80, 96)


def test_transparency_of_a_heic_is_laid_on_white():
    expected = quadrants()
    expected.paste(WHITE, (0, 0, 48, 80))
    assert difference(open_image(DATA / "transparent.heic").image, expected) < 6


def test_ten_bits_keep_their_brightness():
    ramp = np.asarray(open_image(DATA / "ten-bits.heic").image)[40, :, 1]
    assert np.abs(ramp - np.linspace(0, 255, 96)).max() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_picture_and_says_so(tmp_path, kind):
    found = opened(tmp_path, encoded(picture(color=RED), kind, save_all=True, append_images=[picture(color=GREEN)]))
    assert found.is_animated
    assert found.image.getpixel((5, 5)) == pytest.approx(RED, abs=6)


def test_a_preview_behind_a_photo_makes_no_animation(tmp_path):
    photo = encoded(picture(color=RED), "MPO", save_all=True, append_images=[picture(color=GREEN)])
    assert not opened(tmp_path, photo).is_animated
    found = opened(tmp_path, heic("two-pictures"))
    assert not found.is_animated
    assert difference(found.image, quadrants()) < 6


def test_endless_pages_of_a_tiff_are_not_counted(tmp_path):
    content, pages = bytearray(encoded(picture(), "TIFF")), 40_000
    (directory,) = struct.unpack_from("<L", content, 4)
    (tags,) = struct.unpack_from("<H", content, directory)
    struct.pack_into("<L", content, directory + 2 + 12 * tags, len(content))
    content += b"".join(struct.pack("<HL", 0, len(content) + 6 * page) for page in range(1, pages)) + bytes(6)
    start = time.monotonic()
    assert opened(tmp_path, bytes(content)).is_animated
    assert time.monotonic() - start < 2


def test_an_avif_may_hide_behind_the_common_brand(tmp_path):
    content = encoded(quadrants(), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert difference(opened(tmp_path, content).image, quadrants()) < 6


@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(1, 1, "small"), (63, 80, "small"), (64, 513, "long"), (20_000, 100, "long"), (100, 20_000, "long")],
)
def test_a_shape_that_cannot_be_trained_is_refused(tmp_path, width, height, found):
    message = reason(tmp_path, encoded(picture(width, height, color=0, mode="1")))
    assert f"{width}x{height} is too {found}: expected at " in message


@pytest.mark.parametrize("size", [(64, 64), (64, 512), (512, 64)])
def test_the_smallest_and_the_longest_shapes_are_taken(tmp_path, size):
    assert opened(tmp_path, encoded(picture(*size))).image.size == size


@pytest.mark.parametrize(
    "content",
    [
        png_of(14_000, 14_000),
        png_of(60_000, 60_000),
        with_size(sample("BMP"), b"(\0\0\0", "<LL", 2**31 - 1, 60_000),
        with_size(sample("GIF"), b"GIF87a", "<HH", 65_535, 65_535),
        with_size(sample("HEIC"), b"ispe\0\0\0\0", ">LL", 20_000, 20_000),
        with_size(sample("AVIF"), b"ispe\0\0\0\0", ">LL", 15_000, 15_000),
    ],
    ids=lambda content: repr(content[:4]),
)
def test_a_giant_is_refused_by_its_header(tmp_path, content):
    start = time.monotonic()
    assert "large" in reason(tmp_path, content)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("kind", [*KINDS, "HEIC"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_cut_off_is_refused(tmp_path, kind, share):
    content = sample(kind)
    reason(tmp_path, content[: int(len(content) * share)])


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"<svg/>", b"\0\0\0\x0cjP  \r\n\x87\n"]
)
def test_what_is_no_image_is_refused(tmp_path, content):
    assert reason(tmp_path, content) == "not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image"
    assert not is_image(tmp_path / "000000")


def test_a_palette_that_is_missing_is_a_reason(tmp_path):
    image = picture(color=0, mode="P")
    image.putpalette([0, 0, 0])
    content = encoded(image)
    start, end = content.index(b"PLTE") - 4, content.index(b"IDAT") - 4
    assert reason(tmp_path, content[:start] + content[end:]) == "cannot be decoded (it is damaged)"


def test_names_in_a_heic_that_are_no_text_are_a_reason(tmp_path):
    """pi-heif takes the whole process down at these."""
    content = heic("orientation-6")
    assert "list of contents" in reason(tmp_path, content.replace(b"Exif", b"E\xffif", 1))
    at = content.index(b"infe") - 4
    assert "list of contents" in reason(tmp_path, content[:at] + struct.pack(">L", 1) + content[at + 4 :])


@pytest.mark.parametrize("kind", [*KINDS, "MPO", "HEIC"])
def test_damage_anywhere_is_a_reason_or_a_picture_and_never_a_crash(tmp_path, kind):
    content, random = sample(kind), np.random.default_rng(0)
    for _ in range(80):
        broken = bytearray(content)
        for at in random.integers(0, random.choice([60, 400, len(content)]), size=3) % len(content):
            broken[at] = random.integers(256)
        path = write(tmp_path / "000000", bytes(broken[random.integers(4) :]))
        is_image(path)
        try:
            assert open_image(path).image.mode == "RGB"
        except ValueError as error:
            assert_one_sentence(error)


def test_a_large_image_is_held_alone_and_a_small_one_is_not(tmp_path, monkeypatch):
    held = []

    @contextmanager
    def large():
        held.append(True)
        yield

    monkeypatch.setattr(images, "LARGE_PIXELS", 96 * 80)
    for width in (96, 97):
        open_image(write(tmp_path / "000000", encoded(picture(width, 80))), large=large())
    assert held == [True]


def test_nothing_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    path = write(tmp_path / "000000", encoded(picture(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_pillow():
            assert is_image(path)
            assert open_image(path).original == Size(96, 80)


def plainly_fitted(image, size):
    """In full precision, from every pixel."""
    scale = cover_scale(Size(*image.size), size)
    over_x, over_y = max(image.width - size.width / scale, 0) / 2, max(image.height - size.height / scale, 0) / 2
    box = over_x, over_y, image.width - over_x, image.height - over_y
    channels = [Image.fromarray(channel) for channel in np.moveaxis(np.asarray(image, dtype=np.float32), 2, 0)]
    resized = [np.asarray(channel.resize((size.width, size.height), 1, box)) for channel in channels]
    return np.stack(resized, axis=2).clip(0, 255)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {"compress_level": 1}), ("JPEG", {"quality": 95})])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("size", [Size(320, 304), Size(272, 160), Size(96, 112)], ids=str)
def test_what_is_decoded_smaller_is_what_is_decoded_whole(tmp_path, kind, options, orientation, size):
    photo = Image.fromarray(skimage.data.retina()).crop((50, 50, 1353, 1351))  # no multiple of anything
    path = write(tmp_path / "000000", turned(photo, kind, orientation, **options))
    expected = plainly_fitted(open_image(path).image, size)
    lying = Size(size.height, size.width) if orientation == 6 else size
    found = open_image(path, lambda original: cover_scale(original, lying))
    assert found.original == Size(1303, 1301)
    assert found.image.width < 1303
    error = np.square(np.asarray(found.fitted(size), dtype=np.float64) - expected).mean()
    assert 10 * np.log10(255**2 / error) > 50
