"""The settings that an image was generated with, as JSON in the image's own file."""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from lora.images.files import DAMAGE

PNG_KEY = "settings"
MAX_BYTES = 60_000  # of settings; EXIF in a JPEG holds 64 kB in total
LONGEST_PROMPT = 2000  # characters to which a prompt is shortened if the settings are too long

Settings = Mapping[str, object]


def text_of(settings: Settings) -> str:
    """Return settings as ASCII JSON, which EXIF requires; shorten the prompt if the text is too long for EXIF."""
    text = json.dumps(settings)
    if len(text) <= MAX_BYTES:
        return text
    return json.dumps({**settings, "prompt": f"{str(settings['prompt'])[:LONGEST_PROMPT]}..."})


def png_info(settings: Settings) -> PngInfo:
    """The settings as a text chunk of a PNG."""
    info = PngInfo()
    info.add_text(PNG_KEY, text_of(settings))
    return info


def exif(settings: Settings) -> Image.Exif:
    """The settings as the description of a JPEG or WebP."""
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription] = text_of(settings)
    return tags


def settings_in(path: Path) -> dict[str, object]:
    """Return the settings in a file.

    Raises ValueError with one sentence if the file has no readable settings, OSError if it is missing or no image.
    """
    try:
        with Image.open(path) as image:
            text = image.info.get(PNG_KEY) or image.getexif().get(ExifTags.Base.ImageDescription)
        settings = json.loads(text or "")
    except OSError:
        raise
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} has no readable settings: expected an image made by this predictor") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path.name} says {settings!r}: expected an image made by this predictor")
    return settings
