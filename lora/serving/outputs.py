"""Saves images in the requested format, with the settings that they were generated with as metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from lora.images.files import DAMAGE
from lora.serving.request import Request

PILLOW_NAMES = {"webp": "WEBP", "jpg": "JPEG", "png": "PNG"}
PNG_KEY = "settings"
MAX_BYTES = 60_000  # of settings; EXIF in a JPEG holds 64 kB in total
LONGEST_PROMPT = 2000  # characters to which a prompt is shortened if the settings are too long

Settings = Mapping[str, object]


def save_images(images: Mapping[int, Image.Image], request: Request, settings: Settings, *, into: Path) -> list[Path]:
    """Save images by their index in the request, with the settings and each image's own seed, and return their paths.

    Raises OSError with one sentence if a file cannot be written, for example on a full disk.
    """
    paths = []
    for index, image in images.items():
        path = into / f"out-{index}.{request.output_format}"
        try:
            _save(image, path, request, text_of({**settings, "seed": request.seeds[index]}))
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{path.name} cannot be written ({reason}): expected free disk space for an image") from error
        paths.append(path)
    return paths


def settings_in(path: Path) -> dict[str, object]:
    """Return the settings that `save_images` wrote into a file.

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


def text_of(settings: Settings) -> str:
    """Return settings as ASCII JSON, which EXIF requires; shorten the prompt if the text is too long for EXIF."""
    text = json.dumps(settings)
    if len(text) <= MAX_BYTES:
        return text
    return json.dumps({**settings, "prompt": f"{str(settings['prompt'])[:LONGEST_PROMPT]}..."})


def _save(image: Image.Image, path: Path, request: Request, text: str) -> None:
    if request.output_format == "png":
        info = PngInfo()
        info.add_text(PNG_KEY, text)
        image.save(path, PILLOW_NAMES["png"], pnginfo=info)
        return
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = text
    image.save(path, PILLOW_NAMES[request.output_format], quality=request.output_quality, exif=exif)
