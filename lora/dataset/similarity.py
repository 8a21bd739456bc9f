"""What can be told of a picture by its pixels: whether it is sharp, and which others look the same."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 8
MOST_DIFFERENT_BITS = 10  # of 128
MOST_DIFFERENT_COLOR = 12.0  # of 255, in any channel of the mean
ROUNDING = 2.5  # how much a Laplacian varies by the rounding of 8-bit colors alone
LEAST_SHARPNESS = 1e-6


@dataclass(frozen=True, slots=True)
class PerceptualHash:
    """A perceptual hash: where a picture gets brighter from cell to cell of a coarse grid, and its mean color."""

    bits: bytes  # 64 steps to the right, 64 steps down
    color: tuple[float, float, float]  # 0 to 255


def perceptual_hash(picture: Image.Image) -> PerceptualHash:
    """The hash of an RGB picture, hardly changed by its size, its compression or its brightness (dHash, both ways)."""
    gray = picture.convert("L")
    right = np.asarray(gray.resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    down = np.asarray(gray.resize((GRID, GRID + 1), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(np.diff(right, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    red, green, blue = np.asarray(picture.resize((1, 1), Image.Resampling.BOX), dtype=np.float64)[0, 0].tolist()
    return PerceptualHash(np.packbits(bits).tobytes(), (red, green, blue))


def look_alikes(hashes: list[PerceptualHash]) -> list[list[int]]:
    """Groups of two or more indices whose pictures look the same as the group's first, each index in one group."""
    bits = np.array([np.frombuffer(each.bits, dtype=np.uint64) for each in hashes]).reshape(-1, 2)
    colors = np.array([each.color for each in hashes]).reshape(len(hashes), 3)
    is_free, groups = np.ones(len(hashes), dtype=bool), []
    for index in range(len(hashes)):
        if not is_free[index]:
            continue
        differing = np.bitwise_count(bits ^ bits[index]).sum(axis=1)
        is_near = np.abs(colors - colors[index]).max(axis=1) <= MOST_DIFFERENT_COLOR
        members = np.flatnonzero(is_free & is_near & (differing <= MOST_DIFFERENT_BITS)).tolist()
        is_free[members] = False
        if len(members) > 1:
            groups.append(members)
    return groups


def sharpness(picture: Image.Image) -> float:
    """The share of a picture's contrast that is between neighbouring pixels: the variance of its Laplacian against its
    own. At a training size 0.03 to 1 for a photograph in focus, 0.0001 or less for one blurred over 4 pixels, 0 for a
    picture of one color alone."""
    gray: NDArray[np.float32] = np.asarray(picture.convert("L"), dtype=np.float32)
    middle = gray[1:-1, 1:-1]
    laplacian = 4 * middle - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
    contrast = float(gray.var())
    return max((float(laplacian.var()) - ROUNDING) / contrast, LEAST_SHARPNESS) if contrast else 0.0
