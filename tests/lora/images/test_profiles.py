"""Colors are converted to sRGB by the ICC profile; an unusable profile is ignored."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from lora.images.files import open_image
from lora.images.profiles import to_srgb
from tests.tiny import encoded, solid_image, write

# Display P3, the color space of phones: its primaries in XYZ relative to D50, as in Apple's profile.
P3 = {b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.1571, 0.06657, 0.78407)}


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def p3_profile():
    """The sRGB profile with other primaries and another name; the tone curve is the same."""
    profile = bytearray(srgb_profile().replace("sRGB".encode("utf-16-be"), "DiP3".encode("utf-16-be")))
    (count,) = struct.unpack_from(">L", profile, 128)
    for index in range(count):
        tag, offset, _ = struct.unpack_from(">4sLL", profile, 132 + 12 * index)
        if tag in P3:
            struct.pack_into(">3l", profile, offset + 8, *(round(value * 65536) for value in P3[tag]))
    return bytes(profile)


def srgb_by_formula(color):
    """Convert Display P3 to sRGB through linear light and XYZ, in double precision."""
    encoded_p3 = np.array(color) / 255
    linear = np.where(encoded_p3 <= 0.04045, encoded_p3 / 12.92, ((encoded_p3 + 0.055) / 1.055) ** 2.4)
    srgb = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)]).T
    mixed = np.linalg.solve(srgb, np.array(list(P3.values())).T @ linear).clip(0, 1)
    return np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("color", [(200, 100, 50), (30, 180, 90), (128, 128, 128), (255, 0, 0)])
def test_a_wide_gamut_is_converted_to_srgb(tmp_path, kind, color):
    lossless = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = encoded(solid_image(color=color), kind, icc_profile=p3_profile(), **lossless)
    converted = open_image(write(tmp_path / "a", content)).image.getpixel((5, 5))
    assert np.abs(np.array(converted) - srgb_by_formula(color)).max() <= 2


def test_srgb_is_not_converted():
    assert to_srgb("RGB", srgb_profile()) is None


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", None),
        ("RGB", b""),
        ("RGB", b"rubbish"),
        ("RGB", p3_profile()[:200]),
        ("L", p3_profile()),
        ("CMYK", p3_profile()),
    ],
)
def test_an_unusable_profile_is_ignored(mode, profile):
    assert to_srgb(mode, profile) is None


@pytest.mark.parametrize("profile", [b"rubbish", p3_profile()[:200]])
def test_an_image_with_a_damaged_profile_is_decoded(tmp_path, profile):
    path = write(tmp_path / "a", encoded(solid_image(color=(200, 100, 50)), "PNG", icc_profile=profile))
    assert open_image(path).image.getpixel((5, 5)) == (200, 100, 50)


def test_transparent_pixels_with_a_profile_become_white(tmp_path):
    image = Image.new("RGBA", (96, 80), (200, 100, 50, 0))
    path = write(tmp_path / "a", encoded(image, "PNG", icc_profile=p3_profile()))
    assert open_image(path).image.getpixel((5, 5)) == (255, 255, 255)
