"""Every supported image file is decoded as viewers display it, or refused with a reason.

tests/data/*.heic were written by pillow-heif 1.8: `quadrants()` rotated with the EXIF, `irot` and `imir` that a phone
writes; `quadrants()` half transparent; `quadrants()` with a second image after it; and a ramp of grays in 10 bits.
"""

import struct
import time
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.planted import photograph
from lora.images import files as images
from lora.images.files import is_image, open_image, quiet_pillow
from lora.images.orientation import EXIF_TRANSPOSES
from lora.images.size import Size, cover_scale
from tests.tiny import assert_one_sentence, encoded, noisy_image, solid_image, write

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
DATA = Path(__file__).parents[2] / "data"
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
# How an upright image is stored so that its EXIF orientation restores it.
STORED = EXIF_TRANSPOSES | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def decoded(tmp_path, content):
    return open_image(write(tmp_path / "000000", content))


def reason(tmp_path, content):
    with pytest.raises(ValueError) as error:
        decoded(tmp_path, content)
    assert_one_sentence(error.value)
    assert str(tmp_path) not in str(error.value)
    return str(error.value)


def quadrants(width=96, height=80):
    """Red and green above blue and white."""
    image = solid_image(width, height, color=WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def rotated(image, kind, orientation, **options):
    """The file of an image that is stored rotated, with its EXIF orientation."""
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
    """A PNG of only a header with a size."""
    header = b"IHDR" + struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">L", zlib.crc32(header)) + b"\0\0\0\1IDAT"


def with_size(content, after, form, width, height):
    """A file with a wrong size in its header."""
    at = content.index(after) + len(after)
    return content[:at] + struct.pack(form, width, height) + content[at + struct.calcsize(form) :]


@pytest.mark.parametrize("kind", [*KINDS, "MPO"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a"])
def test_the_format_is_determined_by_the_content_whatever_the_name(tmp_path, kind, name):
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
def test_the_exif_orientation_is_applied(tmp_path, kind, options, orientation):
    found = decoded(tmp_path, rotated(quadrants(), kind, orientation, **options))
    assert found.original == Size(96, 80)
    assert difference(found.image, quadrants()) < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_heic_is_applied_once(orientation):
    found = open_image(DATA / f"orientation-{orientation}.heic")
    assert found.original == Size(96, 80)
    assert difference(found.image, quadrants()) < 6


def test_an_invalid_orientation_is_ignored(tmp_path):
    assert decoded(tmp_path, rotated(quadrants(), "PNG", 99)).original == Size(96, 80)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_unreadable_exif_is_ignored(tmp_path, kind, exif):
    assert decoded(tmp_path, encoded(quadrants(), kind, exif=exif)).original == Size(96, 80)


def test_other_invalid_exif_tags_do_not_affect_the_orientation(tmp_path):
    """Pillow reads such tags, but cannot write them."""
    exif = solid_image().getexif()
    exif[ORIENTATION] = 6
    exif[0x011A] = 72.0  # XResolution
    content = encoded(solid_image(), "JPEG", exif=exif)
    odd = content.replace(b"\x01\x1a\0\5", b"\x01\x1a\0\2")  # of another type
    assert odd != content
    assert decoded(tmp_path, odd).image.size == (80, 96)


def test_transparency_of_a_heic_is_composited_on_white():
    expected = quadrants()
    expected.paste(WHITE, (0, 0, 48, 80))
    assert difference(open_image(DATA / "transparent.heic").image, expected) < 6


def test_ten_bits_keep_their_brightness():
    ramp = np.asarray(open_image(DATA / "ten-bits.heic").image)[40, :, 1]
    assert np.abs(ramp - np.linspace(0, 255, 96)).max() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame_and_is_marked(tmp_path, kind):
    frames = [solid_image(color=color) for color in (RED, GREEN)]
    found = decoded(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert found.is_animated
    assert found.image.getpixel((5, 5)) == pytest.approx(RED, abs=6)


def test_a_photo_with_a_preview_is_not_an_animation(tmp_path):
    photo = encoded(solid_image(color=RED), "MPO", save_all=True, append_images=[solid_image(color=GREEN)])
    assert not decoded(tmp_path, photo).is_animated
    found = decoded(tmp_path, heic("two-pictures"))
    assert not found.is_animated
    assert difference(found.image, quadrants()) < 6


def test_many_pages_of_a_tiff_are_not_counted(tmp_path):
    content, pages = bytearray(encoded(solid_image(), "TIFF")), 40_000
    (directory,) = struct.unpack_from("<L", content, 4)
    (tags,) = struct.unpack_from("<H", content, directory)
    struct.pack_into("<L", content, directory + 2 + 12 * tags, len(content))
    content += b"".join(struct.pack("<HL", 0, len(content) + 6 * page) for page in range(1, pages)) + bytes(6)
    start = time.monotonic()
    assert decoded(tmp_path, bytes(content)).is_animated
    assert time.monotonic() - start < 2


def test_an_avif_with_the_brand_mif1_is_decoded(tmp_path):
    content = encoded(quadrants(), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert difference(decoded(tmp_path, content).image, quadrants()) < 6


@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(1, 1, "small"), (63, 80, "small"), (64, 513, "long"), (20_000, 100, "long"), (100, 20_000, "long")],
)
def test_an_unsupported_shape_is_refused(tmp_path, width, height, found):
    message = reason(tmp_path, encoded(solid_image(width, height, color=0, mode="1")))
    assert f"{width}x{height} is too {found}: expected at " in message


@pytest.mark.parametrize("size", [(64, 64), (64, 512), (512, 64)])
def test_the_smallest_and_the_longest_shapes_are_accepted(tmp_path, size):
    assert decoded(tmp_path, encoded(solid_image(*size))).image.size == size


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
def test_a_huge_image_is_refused_by_its_header(tmp_path, content):
    start = time.monotonic()
    assert "large" in reason(tmp_path, content)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("kind", [*KINDS, "HEIC"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    content = sample(kind)
    reason(tmp_path, content[: int(len(content) * share)])


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"<svg/>", b"\0\0\0\x0cjP  \r\n\x87\n"]
)
def test_a_file_that_is_not_an_image_is_refused(tmp_path, content):
    assert reason(tmp_path, content) == "not a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC image"
    assert not is_image(tmp_path / "000000")


def test_a_missing_palette_is_refused(tmp_path):
    image = solid_image(color=0, mode="P")
    image.putpalette([0, 0, 0])
    content = encoded(image)
    start, end = content.index(b"PLTE") - 4, content.index(b"IDAT") - 4
    assert reason(tmp_path, content[:start] + content[end:]) == "cannot be decoded (it is damaged)"


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(ValueError, match=r"^cannot be decoded \(no such file\)$"):
        open_image(tmp_path / "missing.png")


def test_names_in_a_heic_that_are_not_text_are_refused(tmp_path):
    """These would crash pi-heif and the process."""
    content = heic("orientation-6")
    assert "its metadata is damaged" in reason(tmp_path, content.replace(b"Exif", b"E\xffif", 1))
    at = content.index(b"infe") - 4
    assert "its metadata is damaged" in reason(tmp_path, content[:at] + struct.pack(">L", 1) + content[at + 4 :])


@pytest.mark.parametrize("kind", [*KINDS, "MPO", "HEIC"])
def test_a_damaged_file_is_decoded_or_refused_without_a_crash(tmp_path, kind):
    content, rng = sample(kind), np.random.default_rng(0)
    for _ in range(80):
        broken = bytearray(content)
        for at in rng.integers(0, rng.choice([60, 400, len(content)]), size=3) % len(content):
            broken[at] = rng.integers(256)
        path = write(tmp_path / "000000", bytes(broken[rng.integers(4) :]))
        is_image(path)
        try:
            assert open_image(path).image.mode == "RGB"
        except ValueError as error:
            assert_one_sentence(error)


def test_the_lock_is_entered_for_large_images_only(tmp_path, monkeypatch):
    entered = []

    @contextmanager
    def large():
        entered.append(True)
        yield

    monkeypatch.setattr(images, "LARGE_PIXELS", 96 * 80)
    for width in (96, 97):
        open_image(write(tmp_path / "000000", encoded(solid_image(width, 80))), large=large())
    assert entered == [True]


def test_quiet_pillow_suppresses_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    path = write(tmp_path / "000000", encoded(solid_image(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_pillow():
            assert is_image(path)
            assert open_image(path).original == Size(96, 80)


def reference_fit(image, size):
    """Resize and crop an image in float precision, from all its pixels."""
    scale = cover_scale(Size(*image.size), size)
    over_x, over_y = max(image.width - size.width / scale, 0) / 2, max(image.height - size.height / scale, 0) / 2
    box = over_x, over_y, image.width - over_x, image.height - over_y
    channels = [Image.fromarray(channel) for channel in np.moveaxis(np.asarray(image, dtype=np.float32), 2, 0)]
    resized = [np.asarray(channel.resize((size.width, size.height), 1, box)) for channel in channels]
    return np.stack(resized, axis=2).clip(0, 255)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {"compress_level": 1}), ("JPEG", {"quality": 95})])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("size", [Size(320, 304), Size(272, 160), Size(96, 112)], ids=str)
def test_decoding_at_a_smaller_scale_equals_decoding_at_full_size(tmp_path, kind, options, orientation, size):
    photo = photograph("retina").crop((50, 50, 1353, 1351))  # sides without small factors
    path = write(tmp_path / "000000", rotated(photo, kind, orientation, **options))
    expected = reference_fit(open_image(path).image, size)
    stored = Size(size.height, size.width) if orientation == 6 else size
    found = open_image(path, lambda original: cover_scale(original, stored))
    assert found.original == Size(1303, 1301)
    assert found.image.width < 1303
    error = np.square(np.asarray(found.fitted(size), dtype=np.float64) - expected).mean()
    assert 10 * np.log10(255**2 / error) > 50
