"""Small pictures of images, by which they are compared, and the regions of them that crops show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 48  # pixels, of a thumbnail: enough to tell photographs apart, few enough to keep 5,000 in memory; our choice
GRAY_DIFFERENCE = 2.0  # of 255: by how much the channels of a gray image differ at most, after rounding
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's mode "L"

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image scaled to a square, whatever its shape."""

    pixels: bytes  # [SIDE, SIDE, 3], RGB
    aspect_ratio: float  # width / height of the image

    @classmethod
    def of(cls, image: Image.Image) -> "Thumbnail":
        """The thumbnail of an RGB image."""
        reduced = image.resize((SIDE, SIDE), Image.Resampling.BOX)
        return cls(reduced.tobytes(), image.width / image.height)

    def colors(self) -> Floats:
        """The pixels [SIDE, SIDE, 3] as numbers of 0 to 255."""
        return np.frombuffer(self.pixels, dtype=np.uint8).reshape(SIDE, SIDE, 3).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image, in shares of its width and height. It may reach beyond the image."""

    left: float
    top: float
    width: float
    height: float

    def sampled(self, thumbnail: Floats, side: int) -> Floats:
        """This region of thumbnails [..., SIDE, SIDE], scaled to [..., side, side]."""
        rows, columns = _weights(self.top, self.height, side), _weights(self.left, self.width, side)
        return np.matmul(np.matmul(rows, thumbnail), columns.T)


WHOLE_IMAGE = Region(0.0, 0.0, 1.0, 1.0)


def planes(colors: Floats) -> Floats:
    """Pixels [SIDE, SIDE, 3] as three planes [3, SIDE, SIDE]."""
    return np.ascontiguousarray(colors.transpose(2, 0, 1))


def is_gray(colors: Floats) -> bool:
    """Whether pixels [SIDE, SIDE, 3] have no color."""
    return bool((colors.max(axis=-1) - colors.min(axis=-1)).max() <= GRAY_DIFFERENCE)


def _weights(start: float, share: float, side: int) -> Floats:
    """The weights [side, SIDE] of pixels in the samples of a region along one axis: triangles, as in Pillow's BILINEAR.
    A sample outside the image repeats its border."""
    width = SIDE * share / side
    centers = np.clip(SIDE * start + (np.arange(side) + 0.5) * width, 0.5, SIDE - 0.5)
    distances = np.abs(np.arange(SIDE) + 0.5 - centers[:, None])
    weights = np.clip(1 - distances / max(width, 1.0), 0, None)
    normalized: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalized
