"""How alike two pictures are after one is aligned with a region of the other. Knows no files and no groups.

Similarity is the correlation of the colors, which changes of brightness, contrast and warmth do not affect. The region
is moved and scaled until it is highest: the forward additive algorithm of Evangelidis and Psarakis 2008, "Parametric
Image Alignment Using Enhanced Correlation Coefficient Maximization" (IEEE TPAMI 30), for four parameters.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lora.dataset.thumbnails import WHOLE_IMAGE, Floats, Region

GRIDS = (12, 12, 12, 24, 24, 24, 24)  # pixels a side, one per iteration: coarse to fine, to converge from farther away
LONGEST_STEP = 0.06  # of the image, per iteration
DAMPING = 1e-3  # of the mean curvature
LEAST_OVERLAP = 0.7  # share of the region that lies inside the image
LEAST_DEVIATION = 1.0  # of 255: channels with a smaller standard deviation have no structure to compare
HOPELESS = 0.5  # a correlation after three iterations, from which no pair of the planted sets has reached a match
LEAST_WIDTH, MOST_WIDTH = 0.5, 1.15  # shares of a side
PARAMETERS = 4
BLOCK = 6  # pixels of the finest grid
LEAST_OF_A_BLOCK = 0.08  # standard deviation of a block, in that of its picture; our choice


class Similarity(NamedTuple):
    """How alike two pictures are: correlations, -1 to 1."""

    overall: float  # of the channel with the lowest one, so that a thing in another color is not a change of light
    local: float  # mean over blocks: things that differ in front of the same backdrop have a high overall one


NOT_SIMILAR = Similarity(-1.0, -1.0)


def aligned_similarity(image: Floats, other: Floats, start: Region) -> Similarity:
    """The similarity of `other` and the region of `image` near `start` where it is highest.

    Both are planes [channels, SIDE, SIDE].
    """
    region, best, best_region = start, -1.0, None
    for number, side in enumerate(GRIDS):
        found = _Overlap.between(image, other, region, side)
        if found is None:
            break
        overall = found.similarity()
        if side == GRIDS[-1]:
            if overall > best:
                best, best_region = overall, region
            if overall < HOPELESS:
                break
        if number + 1 < len(GRIDS):
            region = found.improved(region)
    return NOT_SIMILAR if best_region is None else Similarity(best, _local_similarity(image, other, best_region))


def _local_similarity(image: Floats, other: Floats, region: Region) -> float:
    """The mean correlation of the blocks in which one of two pictures has some of its structure."""
    pictures = region.sampled(image, GRIDS[-1]).mean(axis=0), WHOLE_IMAGE.sampled(other, GRIDS[-1]).mean(axis=0)
    first, second = (_blocks(picture) / max(float(picture.std()), LEAST_DEVIATION) for picture in pictures)
    deviations = first.std(axis=1), second.std(axis=1)
    has_structure = np.maximum(*deviations) > LEAST_OF_A_BLOCK
    if not has_structure.any():
        return -1.0
    products = (first * second).mean(axis=1) / np.maximum(deviations[0] * deviations[1], 1e-6)
    return float(products[has_structure].mean())


def _blocks(picture: Floats) -> Floats:
    """The blocks of a picture [side, side], each as a row with mean 0."""
    count = len(picture) // BLOCK
    rows = picture.reshape(count, BLOCK, count, BLOCK).transpose(0, 2, 1, 3).reshape(count * count, BLOCK * BLOCK)
    return rows - rows.mean(axis=1, keepdims=True)


class _Overlap:
    """The pixels that a region of one picture shares with another one, normalized."""

    def __init__(self, sampled: Floats, target: Floats, rows: Floats, columns: Floats, per_share: float) -> None:
        """Planes [channels, rows, columns] of both, the positions in the region, and pixels per share of it."""
        self._rows, self._columns, self._per_share = rows, columns, per_share
        self._sampled, self._deviations = _normalized(sampled)
        self._target, _ = _normalized(target)
        self._planes = sampled

    @classmethod
    def between(cls, image: Floats, other: Floats, region: Region, side: int) -> "_Overlap | None":
        """The overlap, or None if it is too small, or if nothing in it has any structure."""
        if not (LEAST_WIDTH <= region.width <= MOST_WIDTH and LEAST_WIDTH <= region.height <= MOST_WIDTH):
            return None
        grid = ((np.arange(side) + 0.5) / side).astype(np.float32)
        is_row, is_column = _inside(region.top + region.height * grid), _inside(region.left + region.width * grid)
        if is_row.sum() * is_column.sum() < LEAST_OVERLAP * side * side:
            return None
        cut = np.ix_(np.ones(len(image), dtype=bool), is_row, is_column)
        sampled, target = region.sampled(image, side)[cut], WHOLE_IMAGE.sampled(other, side)[cut]
        has_structure = np.minimum(sampled.std(axis=(1, 2)), target.std(axis=(1, 2))) > LEAST_DEVIATION
        if not has_structure.any():
            return None
        return cls(sampled[has_structure], target[has_structure], grid[is_row], grid[is_column], float(side))

    def similarity(self) -> float:
        """The lowest correlation of a channel."""
        return float(self._correlations().min())

    def improved(self, region: Region) -> Region:
        """The region after one step of Gauss-Newton."""
        jacobian = self._jacobian(region)
        scaled = self._target / np.maximum(self._correlations(), HOPELESS)[:, None]
        curvature = np.einsum("cip,ciq->pq", jacobian, jacobian)
        slope = np.einsum("cip,ci->p", jacobian, scaled - self._sampled)
        damped = curvature + DAMPING * np.trace(curvature) / PARAMETERS * np.eye(PARAMETERS)
        left, top, width, height = np.clip(np.linalg.solve(damped, slope), -LONGEST_STEP, LONGEST_STEP).tolist()
        return Region(region.left + left, region.top + top, region.width + width, region.height + height)

    def _correlations(self) -> Floats:
        return (self._sampled * self._target).sum(axis=1)

    def _jacobian(self, region: Region) -> Floats:
        """The derivatives [channels, pixels, parameters] of the normalized pixels by left, top, width and height."""
        down, right = np.gradient(self._planes, axis=(1, 2))
        down, right = down * (self._per_share / region.height), right * (self._per_share / region.width)
        parts = np.stack([right, down, right * self._columns, down * self._rows[:, None]], axis=-1)
        raw = parts.reshape(len(parts), -1, PARAMETERS) / self._deviations[:, None, None]
        centered = raw - raw.mean(axis=1, keepdims=True)
        along = np.einsum("ci,cip->cp", self._sampled, centered)
        return centered - self._sampled[..., None] * along[:, None]


def _inside(positions: Floats) -> NDArray[np.bool_]:
    return (positions >= 0) & (positions <= 1)


def _normalized(channels: Floats) -> tuple[Floats, Floats]:
    """Each channel, flat, with mean 0 and length 1; and its length before."""
    flat = channels.reshape(len(channels), -1)
    centered = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centered, axis=1)
    return centered / lengths[:, None], lengths
