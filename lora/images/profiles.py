"""Converts colors to sRGB by ICC profile: the wide gamut of phones, the inks of prints. FLUX expects sRGB."""

import io
from collections.abc import Callable

from PIL import Image, ImageCms

SRGB = "srgb"  # part of the description of a profile that needs no conversion
SPACES = {"RGB": "RGB", "CMYK": "CMYK"}  # color space of the profiles that are applied, by the mode of the image
Convert = Callable[[Image.Image], Image.Image]


def to_srgb(mode: str, profile: bytes | None) -> Convert | None:
    """A function that converts an image of a mode to sRGB by its ICC profile, or None if there is nothing to convert.

    A profile that is invalid, or for another color space, is ignored rather than rejecting the image.
    """
    if not profile or mode not in SPACES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described = source.profile.profile_description or ""
        if source.profile.xcolor_space.strip() != SPACES[mode] or SRGB in described.lower():
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return lambda image: _apply(image, transform)


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None is returned for in-place transforms only
    return converted
