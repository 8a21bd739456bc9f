"""Images become files of the format asked for."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from lora.serving.request import Request

PILLOW_NAMES = {"webp": "WEBP", "jpg": "JPEG", "png": "PNG"}


def save_images(images: Iterable[Image.Image], request: Request, *, into: Path) -> list[Path]:
    """Save images in order and return their paths."""
    return [_save(image, into / f"out-{index}.{request.output_format}", request) for index, image in enumerate(images)]


def _save(image: Image.Image, path: Path, request: Request) -> Path:
    options = {} if request.output_format == "png" else {"quality": request.output_quality}
    image.save(path, PILLOW_NAMES[request.output_format], **options)
    return path
