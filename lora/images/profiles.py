"""Colors as they were meant: a phone's wide gamut, a print's inks, all become sRGB, which is what FLUX knows."""

import io
from collections.abc import Callable

from PIL import Image, ImageCms

SRGB = "srgb"  # in the description of a profile that changes nothing
SPACES = {"RGB": "RGB", "CMYK": "CMYK"}  # of profiles that are heeded, by the mode of the pixels they are about
Convert = Callable[[Image.Image], Image.Image]


def to_srgb(mode: str, profile: bytes | None) -> Convert | None:
    """What turns pixels of a mode into RGB by their ICC profile, or None where it changes or says nothing.

    A profile that cannot be read, or is about other pixels, says nothing: the picture is worth more than its profile.
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
    return lambda picture: _applied(picture, transform)


def _applied(picture: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # as it would be if it had been made in place
    return converted
