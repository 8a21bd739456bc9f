"""Pictures in the report page: small JPEGs as data URIs."""

import io
from base64 import b64encode
from pathlib import Path

from PIL import Image

SAMPLE_SIDE, STEP_SIDE = 512, 224  # pixels of a sample before and after the training, and of those in between
THUMBNAIL_SIDE, MOST_THUMBNAILS = 160, 120  # of the data set
QUALITY = 80  # of JPEG; all our choice: a usual page has less than 3 MB


def thumbnail(image: Image.Image, side: int = THUMBNAIL_SIDE) -> bytes:
    """An image of the data set as a small JPEG, with at most `side` pixels a side."""
    return _jpeg(image, side)


def sample_uri(path: Path, *, is_large: bool) -> str:
    """A sample image as a data URI."""
    with Image.open(path) as image:
        return data_uri(_jpeg(image.convert("RGB"), SAMPLE_SIDE if is_large else STEP_SIDE))


def data_uri(jpeg: bytes) -> str:
    """A JPEG as a data URI."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def _jpeg(image: Image.Image, side: int) -> bytes:
    reduced = image.copy()
    reduced.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    reduced.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
