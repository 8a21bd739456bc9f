"""Each image is in the requested format and contains the settings that it was generated with."""

import dataclasses
import errno
import struct
import zlib

import pytest
from PIL import ExifTags, Image

from lora.images.metadata import settings_in
from lora.serving.outputs import save_images
from script.tiny_flux.following import plain_request
from tests.tiny import assert_one_sentence, encoded, noisy_image, solid_image, write

SETTINGS = {"prompt": "a photo of TOK, größer 狐", "lora": [["abc", 0.5]], "model": "tiny"}


def saved(folder, *, settings=SETTINGS, count=1, **changes):
    request = dataclasses.replace(plain_request("x"), num_outputs=count, **changes)
    images = {index: noisy_image(seed=index) for index in range(count)}
    return save_images(images, request, settings, into=folder)


@pytest.mark.parametrize(("output_format", "name"), [("webp", "WEBP"), ("jpg", "JPEG"), ("png", "PNG")])
def test_a_file_has_its_format_and_the_settings_can_be_read_back(tmp_path, output_format, name):
    (path,) = saved(tmp_path, output_format=output_format, seed=7)
    with Image.open(path) as image:
        assert image.format == name
    assert settings_in(path) == SETTINGS | {"seed": 7}


def test_each_image_has_its_own_seed(tmp_path):
    assert [settings_in(path)["seed"] for path in saved(tmp_path, count=3, seed=40)] == [40, 41, 42]


def test_the_seed_of_an_image_is_valid_in_another_request(tmp_path):
    """2**31 is too large for Cog's command line."""
    assert [settings_in(path)["seed"] for path in saved(tmp_path, count=2, seed=2**31 - 1)] == [2**31 - 1, 0]


@pytest.mark.parametrize("output_format", ["webp", "jpg"])
def test_more_quality_is_a_larger_file(tmp_path, output_format):
    """D25."""
    sizes = []
    for quality in (0, 1, 50, 95, 100):
        (path,) = saved(tmp_path, output_format=output_format, output_quality=quality)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("output_format", ["webp", "jpg", "png"])
def test_a_prompt_that_is_too_long_for_a_file_is_cut(tmp_path, output_format):
    (path,) = saved(tmp_path, settings={"prompt": "狐" * 10_000, "model": "tiny"}, output_format=output_format)
    assert settings_in(path)["prompt"] == "狐" * 2000 + "..."
    assert settings_in(path)["model"] == "tiny"


def test_an_image_without_settings_is_refused(tmp_path):
    solid_image().save(tmp_path / "a.png")
    with pytest.raises(ValueError) as error:
        settings_in(tmp_path / "a.png")
    assert_one_sentence(error.value, "a.png has no readable settings")


def png_of(width, height):
    """Return a PNG with a header and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def described(text):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = text
    return exif


STRANGE = {
    "too large": png_of(60_000, 60_000),
    "EXIF that is none": encoded(solid_image(), "WEBP", exif=b"Exif\0\0garbage"),
    "too deep": encoded(solid_image(), "WEBP", exif=described("[" * 20_000)),
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_a_file_with_unreadable_settings_is_refused(tmp_path, content):
    with pytest.raises(ValueError) as error:
        settings_in(write(tmp_path / "a.webp", content))
    assert_one_sentence(error.value, "a.webp has no readable settings", "expected")


def test_a_full_disk_is_reported_in_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError) as error:
        saved(tmp_path)
    assert_one_sentence(error.value, "out-0", "No space left", "expected free disk space")
    assert str(tmp_path) not in str(error.value)
