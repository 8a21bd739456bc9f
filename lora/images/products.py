"""Marks images that this project's commands make, and recognizes them, so that nobody trains on them by mistake.

The mark is in the metadata of the file, not in its name, which people change.
"""

from pathlib import Path

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from lora.images.files import DAMAGE, open_header

PNG_KEY = "Software"  # the keyword that the PNG specification has for this
MAKER = "flux-lora"
HEAD = 4096  # bytes, in which the mark is: metadata comes before pixels


def png_mark(command: str) -> PngInfo:
    """The metadata of a PNG that a command makes."""
    info = PngInfo()
    info.add_text(PNG_KEY, f"{MAKER} {command}")
    return info


def marked(exif: Image.Exif, command: str) -> Image.Exif:
    """The metadata of a JPEG that a command makes, with its mark."""
    exif[ExifTags.Base.Software] = f"{MAKER} {command}"
    return exif


def maker_of(path: Path) -> str | None:
    """The command of this project that made an image, or None."""
    with path.open("rb") as file:
        if MAKER.encode() not in file.read(HEAD):
            return None
    try:
        with open_header(path) as image:
            software = image.info.get(PNG_KEY) or image.getexif().get(ExifTags.Base.Software)
    except (*DAMAGE, Image.DecompressionBombError):
        return None
    maker, _, command = str(software).partition(" ")
    return command if maker == MAKER and command else None
