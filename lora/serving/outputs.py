"""Saves images in the requested format, with the settings that they were generated with as metadata."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lora.images.metadata import Settings, exif, png_info
from lora.serving.request import Request

PILLOW_NAMES = {"webp": "WEBP", "jpg": "JPEG", "png": "PNG"}


def save_images(images: Mapping[int, Image.Image], request: Request, settings: Settings, *, into: Path) -> list[Path]:
    """Save images by their index in the request, with the settings and each image's own seed, and return their paths.

    Raises OSError with one sentence if a file cannot be written, for example on a full disk.
    """
    paths = []
    for index, image in images.items():
        path = into / f"out-{index}.{request.output_format}"
        try:
            _save(image, path, request, {**settings, "seed": request.seeds[index]})
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{path.name} cannot be written ({reason}): expected free disk space for an image") from error
        paths.append(path)
    return paths


def _save(image: Image.Image, path: Path, request: Request, settings: Settings) -> None:
    kind = PILLOW_NAMES[request.output_format]
    if request.output_format == "png":
        image.save(path, kind, pnginfo=png_info(settings))
    else:
        image.save(path, kind, quality=request.output_quality, exif=exif(settings))
