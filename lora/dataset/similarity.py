"""Groups of images that look almost the same: copies that were cropped, mirrored, scaled, lightened or made warmer.

Thumbnails are compared in two stages: the correlation of very small ones finds candidates, for each image and for
regions of it, and alignment.py decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lora.dataset.alignment import aligned_similarity
from lora.dataset.thumbnails import LUMA, SIDE, WHOLE_IMAGE, Floats, Region, Thumbnail, is_gray, planes

# Of the planted copies of docs/dataset.md nearly all had more. Of other pictures, aligned faces came nearest: 0.92
# overall with 0.64 locally, and 0.90 with 0.78.
SIMILAR, LOCALLY_SIMILAR = 0.88, 0.85
COARSE_SIDE = 8  # pixels, of the thumbnails of the first stage
COARSE_SIMILAR = 0.65  # between copies whose regions differ by half a step; our choice
CANDIDATES = 8  # pairs of an image that the second stage looks at, so that its time grows with the images; our choice
SHARES, STEP = (1.0, 0.9, 0.8, 0.7), 0.1  # of a side that a crop keeps
LEAST_AREA = 0.48  # of the image that a crop keeps, with rounding
SAME_SHAPE = 0.06  # difference of the logarithms of aspect ratios; a share of 0.9 differs by 0.1
ROWS_AT_A_TIME = 256  # which bounds the memory for 5,000 images to some 100 MB


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A pair that may be near-duplicates: the second may show a region of the first."""

    first: int
    second: int
    region: Region
    is_mirrored: bool


def near_duplicates(thumbnails: Sequence[Thumbnail]) -> list[list[int]]:
    """Group images that look almost the same: lists of two or more indices in rising order, each index in one list.

    An image belongs to the group of every image that it is a near-duplicate of. Images without any structure belong to
    none.
    """
    group_of, pictures = list(range(len(thumbnails))), [thumbnail.colors() for thumbnail in thumbnails]
    for candidate in _candidates(pictures, [thumbnail.aspect_ratio for thumbnail in thumbnails]):
        first, second = group_of[candidate.first], group_of[candidate.second]
        if first != second and _is_match(pictures[candidate.first], pictures[candidate.second], candidate):
            group_of = [first if group == second else group for group in group_of]
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(group_of):
        groups.setdefault(group, []).append(index)
    return [members for members in groups.values() if len(members) > 1]


def _is_match(first: Floats, second: Floats, candidate: _Candidate) -> bool:
    if is_gray(first) or is_gray(second):
        first, second = (first @ LUMA)[..., None], (second @ LUMA)[..., None]
    other = second[:, ::-1] if candidate.is_mirrored else second
    found = aligned_similarity(planes(first), planes(other), candidate.region)
    return found.overall >= SIMILAR and found.local >= LOCALLY_SIMILAR


def _candidates(pictures: list[Floats], aspect_ratios: list[float]) -> Iterator[_Candidate]:
    """Yield the pairs that the second stage looks at, the most similar of each image first."""
    if not pictures:
        return
    gray = np.stack([picture @ LUMA for picture in pictures])
    shapes = np.log(np.array(aspect_ratios, dtype=np.float32))
    whole = WHOLE_IMAGE.sampled(gray, COARSE_SIDE)
    targets = _normalized(whole), _normalized(whole[:, :, ::-1])
    for start in range(0, len(gray), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        similarity, which = _best_regions(gray[rows], shapes[rows], targets, shapes)
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -1  # each with itself
        for index, row in enumerate(similarity):
            for other in np.argsort(-row, kind="stable")[:CANDIDATES].tolist():
                if row[other] >= COARSE_SIMILAR:
                    number, is_mirrored = divmod(int(which[index, other]), 2)
                    yield _Candidate(start + index, other, REGIONS[number], bool(is_mirrored))


def _best_regions(
    gray: Floats, shapes: Floats, targets: tuple[Floats, Floats], target_shapes: Floats
) -> tuple[Floats, NDArray[np.int16]]:
    """For images [n, SIDE, SIDE] and every target: the best correlation of a region whose shape is the target's, and
    twice the number of the region, plus one where the target is mirrored."""
    best = np.full((len(gray), len(target_shapes)), -1, dtype=np.float32)
    which = np.zeros(best.shape, dtype=np.int16)
    ratios = target_shapes - shapes[:, None]
    for number, region in enumerate(REGIONS):
        is_same_shape = np.abs(ratios - np.log(region.width / region.height)) < SAME_SHAPE
        if not is_same_shape.any():
            continue
        sampled = _normalized(region.sampled(gray, COARSE_SIDE))
        for is_mirrored, target in enumerate(targets):
            similarity = np.where(is_same_shape, sampled @ target.T, -1)
            which[similarity > best] = 2 * number + is_mirrored
            best = np.maximum(best, similarity)
    return best, which


def _normalized(pictures: Floats) -> Floats:
    """Pictures [n, side, side] as rows [n, side²] with mean 0 and length 1, or 0 where a picture has no structure."""
    flat = pictures.reshape(len(pictures), -1)
    centered = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    return centered / np.maximum(lengths, 1e-3 * SIDE)


def _regions() -> Iterator[Region]:
    """The whole image, and crops that keep about half of it or more."""
    for width, height in product(SHARES, SHARES):
        if width * height >= LEAST_AREA:
            for left, top in product(_starts(width), _starts(height)):
                yield Region(left, top, width, height)


def _starts(share: float) -> list[float]:
    return np.linspace(0, 1 - share, round((1 - share) / STEP) + 1).tolist()


REGIONS = tuple(_regions())
