"""Pictures fitted to their training sizes wait on disk for the encoder, so that each image is decoded once."""

import math
import shutil
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora.dataset.crops import Crop
from lora.dataset.limits import DISK_TO_SPARE, GIBIBYTE

MOST_BYTES = 4 * GIBIBYTE
SHARE_OF_DISK = 1 / 4

Pixels = NDArray[np.uint8]


class PixelStore:
    """Pixels [H, W, 3] by an image's content and view. It keeps what it has room for: the rest is made anew."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._room = min(MOST_BYTES, int(shutil.disk_usage(folder).free * SHARE_OF_DISK))
        self._lock = threading.Lock()

    def put(self, content: str, view: Crop, picture: Image.Image) -> None:
        """Keep a fitted picture, if there is room for it, on the disk too."""
        with self._lock:
            path, count = self._path(content, view), view.size.pixels * 3
            is_room = min(self._room, shutil.disk_usage(self._folder).free - DISK_TO_SPARE) >= count
            if path.exists() or not is_room:
                return
            self._room -= count
            path.touch()
        try:
            path.write_bytes(picture.tobytes())
        except OSError:  # somebody else was faster to fill the disk
            path.unlink(missing_ok=True)

    def get(self, content: str, view: Crop) -> Pixels | None:
        """The pixels of a view of an image, or None if they were not kept, or not to their end."""
        path, shape = self._path(content, view), (view.size.height, view.size.width, 3)
        if not path.exists():
            return None
        pixels = np.fromfile(path, dtype=np.uint8)
        return pixels.reshape(shape) if pixels.size == math.prod(shape) else None

    def _path(self, content: str, view: Crop) -> Path:
        return self._folder / f"{content}-{view}.rgb"
