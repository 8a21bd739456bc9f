"""Photographs for benchmarks: large, detailed and noisy, all files different, without a download."""

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench import planted

SOURCES = ("chelsea", "astronaut", "coffee", "rocket")
NOISE, TEXTURE = 3.0, 0.25  # of a phone's sensor, in steps of 255; weight of a second image, tiled, for fine detail
JPEG_COMMENT, JPEG_START = b"\xff\xfe", 2


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """An archive of photographs of one kind."""

    name: str
    kind: str  # JPEG or HEIF
    count: int
    width: int
    height: int


def write_archive(photos: PhotoSet, path: Path, *, distinct: int) -> None:
    """Write a zip of `count` files of `distinct` images. Files with the same pixels have different bytes, so that each
    is decoded."""
    encoders: dict[str, Callable[[Image.Image], bytes]] = {"JPEG": _jpeg, "HEIF": _heic}
    markers = {"JPEG": _with_comment, "HEIF": _with_free_box}
    images = [
        encoders[photos.kind](photograph(photos.width, photos.height, seed=seed))
        for seed in range(min(distinct, photos.count))
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(photos.count):
            content = markers[photos.kind](images[index % len(images)], f"{index}".encode())
            archive.writestr(f"photo {index:04}.{photos.kind.lower()}", content)


def photograph(width: int, height: int, *, seed: int) -> Image.Image:
    """An image with coarse and fine detail and noise, always the same for a seed."""
    rng = np.random.default_rng(seed)
    coarse = np.asarray(_source(seed).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    tile = np.asarray(_source(seed + 1).resize((max(width // 4, 1), max(height // 4, 1))), dtype=np.float32) - 128
    fine = np.tile(tile, (5, 5, 1))[:height, :width]
    noise = rng.normal(0.0, NOISE, coarse.shape).astype(np.float32)
    return Image.fromarray((coarse + TEXTURE * fine + noise).clip(0, 255).astype(np.uint8))


def _source(seed: int) -> Image.Image:
    return planted.photograph(SOURCES[seed % len(SOURCES)])


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _heic(image: Image.Image) -> bytes:
    import pillow_heif  # noqa: PLC0415 - in the group `bench`, which tests do not need

    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=60)
    return file.getvalue()


def _with_comment(jpeg: bytes, comment: bytes) -> bytes:
    segment = JPEG_COMMENT + struct.pack(">H", len(comment) + 2) + comment
    return jpeg[:JPEG_START] + segment + jpeg[JPEG_START:]


def _with_free_box(heic: bytes, content: bytes) -> bytes:
    return heic + struct.pack(">L4s", len(content) + 8, b"free") + content
