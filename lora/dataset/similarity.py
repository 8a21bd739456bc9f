"""Sharpness of images, and detection of near-duplicates by perceptual hashes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 8  # as in the original dHash, which has only the horizontal differences
MAX_DIFFERENT_BITS = 10  # of 128; our choice
MAX_DIFFERENT_COLOR = 12.0  # of 255, in any channel of the mean color; our choice
ROUNDING = 2.5  # variance of the Laplacian that the rounding of 8-bit colors alone causes
MIN_SHARPNESS = 1e-6  # of an image with more than one color, so that only those of a single color have 0; our choice


@dataclass(frozen=True, slots=True)
class PerceptualHash:
    """A difference hash (dHash, Krawetz 2013): where an image gets brighter in a coarse grid, and its mean color."""

    bits: bytes  # 64 horizontal differences, then 64 vertical ones
    color: tuple[float, float, float]  # 0 to 255


def perceptual_hash(image: Image.Image) -> PerceptualHash:
    """The perceptual hash of an RGB image (dHash in both directions), robust to scaling, compression and brightness."""
    gray = image.convert("L")
    right = np.asarray(gray.resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    down = np.asarray(gray.resize((GRID, GRID + 1), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(np.diff(right, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    red, green, blue = np.asarray(image.resize((1, 1), Image.Resampling.BOX), dtype=np.float64)[0, 0].tolist()
    return PerceptualHash(np.packbits(bits).tobytes(), (red, green, blue))


def near_duplicates(hashes: list[PerceptualHash]) -> list[list[int]]:
    """Group images that look like the first of their group: lists of two or more indices, each index in one group."""
    bits = np.array([np.frombuffer(each.bits, dtype=np.uint64) for each in hashes]).reshape(-1, 2)
    colors = np.array([each.color for each in hashes]).reshape(len(hashes), 3)
    is_free, groups = np.ones(len(hashes), dtype=bool), []
    for index in range(len(hashes)):
        if not is_free[index]:
            continue
        differing = np.bitwise_count(bits ^ bits[index]).sum(axis=1)
        is_near = np.abs(colors - colors[index]).max(axis=1) <= MAX_DIFFERENT_COLOR
        members = np.flatnonzero(is_free & is_near & (differing <= MAX_DIFFERENT_BITS)).tolist()
        is_free[members] = False
        if len(members) > 1:
            groups.append(members)
    return groups


def sharpness(image: Image.Image) -> float:
    """The variance of the Laplacian of an image divided by the variance of the image, both in gray.

    At a training size: 0.03 to 1 for a photograph in focus, at most 0.0001 for one blurred over 4 pixels, 0 for an
    image of a single color.
    """
    gray: NDArray[np.float32] = np.asarray(image.convert("L"), dtype=np.float32)
    middle = gray[1:-1, 1:-1]
    laplacian = 4 * middle - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
    contrast = float(gray.var())
    return max((float(laplacian.var()) - ROUNDING) / contrast, MIN_SHARPNESS) if contrast else 0.0
