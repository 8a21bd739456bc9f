"""Stores image crops on disk until they are encoded, so that each image is decoded once."""

import math
import shutil
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora.dataset.crops import Crop
from lora.dataset.limits import DISK_TO_SPARE, GIBIBYTE

MAX_BYTES = 4 * GIBIBYTE
SHARE_OF_DISK = 1 / 4

Pixels = NDArray[np.uint8]


class PixelStore:
    """Pixels [H, W, 3] by the content and crop of an image. Crops that do not fit on the disk are not stored."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._free_bytes = min(MAX_BYTES, int(shutil.disk_usage(folder).free * SHARE_OF_DISK))
        self._lock = threading.Lock()

    def put(self, content: str, crop: Crop, image: Image.Image) -> None:
        """Store a crop of an image, if the store and the disk have space for it."""
        with self._lock:
            path, count = self._path(content, crop), crop.size.pixels * 3
            fits = min(self._free_bytes, shutil.disk_usage(self._folder).free - DISK_TO_SPARE) >= count
            if path.exists() or not fits:
                return
            self._free_bytes -= count
            path.touch()
        try:
            path.write_bytes(image.tobytes())
        except OSError:  # another process filled the disk in the meantime
            path.unlink(missing_ok=True)

    def get(self, content: str, crop: Crop) -> Pixels | None:
        """The pixels of a crop of an image, or None if they are not stored, or incomplete."""
        path, shape = self._path(content, crop), (crop.size.height, crop.size.width, 3)
        if not path.exists():
            return None
        pixels = np.fromfile(path, dtype=np.uint8)
        return pixels.reshape(shape) if pixels.size == math.prod(shape) else None

    def _path(self, content: str, crop: Crop) -> Path:
        return self._folder / f"{content}-{crop}.rgb"
