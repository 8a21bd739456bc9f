"""Chooses training sizes that several images share, so that batches fill. Knows no pixels and no captions.

A batch has images of one size. Photos of free shapes have nearly as many sizes as there are photos, and each size is
one more shape that the GPU needs kernels for.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.dataset.sizes import MAX_UPSCALING, training_size
from lora.images.size import Size

# Shares of an image's area that may be cropped, of which the smallest that fills the batches is used; our choice. The
# buckets of sd-scripts, in steps of 64 pixels, crop up to an eighth at 512 pixels.
CROPPED = (0.02, 0.04, 0.06, 0.08, 0.1, 0.125)
NEARLY = 0.95  # as many images in a batch as with the largest share; our choice
FEW = 32  # sizes for each resolution; our choice
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SharedSizes:
    """The sizes of images that are not trained at their own, and what is gained by it."""

    by_own: Mapping[tuple[Size, Size], Size]  # by the original and its own training size, all in landscape orientation
    note: str  # for the log; empty if nothing is changed

    def sizes(self, original: Size, own: Iterable[Size]) -> list[Size]:
        """The training sizes of an image whose own training sizes are `own`, smallest first. Those of a portrait are
        those of a landscape of the same sides, turned."""
        shared = set()
        for size in own:
            found = self.by_own.get((_landscape(original), _landscape(size)))
            shared.add(size if found is None else _turned(found) if original.width < original.height else found)
        return sorted(shared, key=lambda size: size.pixels)


def _landscape(size: Size) -> Size:
    return _turned(size) if size.width < size.height else size


def _turned(size: Size) -> Size:
    return Size(size.height, size.width)


OWN_SIZES = SharedSizes({}, "")


@dataclass(frozen=True, slots=True)
class _Group:
    """The images with the same own training size, in landscape orientation."""

    own: Size
    originals: frozenset[Size]
    landscapes: int  # images
    portraits: int
    most_pixels: int  # of any size for them

    @property
    def count(self) -> int:
        """How many images there are."""
        return self.landscapes + self.portraits


@dataclass(frozen=True, slots=True)
class _Assignment:
    """For each group, which group's size it is trained at."""

    targets: tuple[int, ...]
    cropped: float  # the largest share of an image's area
    counts: tuple[int, ...]  # images of each size, in both orientations

    @classmethod
    def of(cls, groups: list[_Group], targets: list[int], *, cropped: float) -> "_Assignment":
        """Create it, and count the images."""
        counts: Counter[tuple[int, bool]] = Counter()
        for group, target in zip(groups, targets, strict=True):
            is_square = groups[target].own.width == groups[target].own.height
            counts[target, False] += group.landscapes
            counts[target, not is_square] += group.portraits
        return cls(tuple(targets), cropped, tuple(count for count in counts.values() if count))

    def batches(self, batch_size: int) -> int:
        """How many batches there are; the last of each size may be smaller."""
        return sum(-(-count // batch_size) for count in self.counts)


def share_sizes(originals: Iterable[Size], *, resolutions: Iterable[int], batch_size: int) -> SharedSizes:
    """Choose the sizes for the images of a data set in batches of `batch_size`.

    Each image keeps its own size (`training_size`), or gets that of another image at the same resolution, at which at
    most an eighth of its area is cropped, its area is at most an eighth smaller than at its own size, and it is not
    enlarged by more than 10 %. Of the shares in `CROPPED`, the smallest is used with which batches are nearly as full
    as they can be, and sizes are few. If both are so without, nothing is changed.
    """
    sides = set(resolutions)
    groups = _groups(originals, sides)
    if not groups or batch_size == 1:
        return OWN_SIZES
    own = _Assignment.of(groups, list(range(len(groups))), cropped=0.0)
    choices = [own, *_assignments(groups)]
    batches = [choice.batches(batch_size) for choice in choices]
    best = _best(choices, batches, few=FEW * len(sides))
    if best == 0:
        return OWN_SIZES
    by_own = {
        (original, group.own): groups[target].own
        for group, target in zip(groups, choices[best].targets, strict=True)
        for original in group.originals
    }
    images = sum(own.counts)
    note = (
        f"batches of {batch_size}: {len(own.counts)} sizes became {len(choices[best].counts)}, so that a batch holds"
        f" {images / batches[best]:.1f} images instead of {images / batches[0]:.1f}; at most"
        f" {choices[best].cropped:.1%} of an image is cropped"
    )
    return SharedSizes(by_own, note)


def _best(choices: list[_Assignment], batches: list[int], *, few: int) -> int:
    """The first choice with nearly the fewest batches and with few sizes, or else with the fewest batches."""
    fewest, most = min(batches), max(few, len(choices[-1].counts))
    are_good = (
        count * NEARLY <= fewest and len(choice.counts) <= most for choice, count in zip(choices, batches, strict=True)
    )
    return next((index for index, is_good in enumerate(are_good) if is_good), batches.index(fewest))


def _groups(originals: Iterable[Size], resolutions: Iterable[int]) -> list[_Group]:
    """The images by their own sizes. An image with one size for two resolutions counts once."""
    most_pixels: dict[Size, int] = {}
    counts: dict[Size, Counter[Size]] = defaultdict(Counter)  # by own size in landscape orientation
    for original, count in Counter(originals).items():
        landscape = _landscape(original)
        for side in sorted(resolutions, reverse=True):
            own = training_size(landscape, resolution=side)
            most_pixels[own] = min(most_pixels.get(own, side**2), side**2)
            counts[own][original] = count
    return [
        _Group(
            own,
            frozenset(map(_landscape, counts[own])),
            sum(count for original, count in counts[own].items() if original.width >= original.height),
            sum(count for original, count in counts[own].items() if original.width < original.height),
            most_pixels[own],
        )
        for own in sorted(counts)
    ]


def _assignments(groups: list[_Group]) -> list[_Assignment]:
    """An assignment for each share of the area that may be cropped."""
    cropped = _cropped(groups)
    pixels = np.array([group.own.pixels for group in groups], dtype=np.float64)
    most = np.array([group.most_pixels for group in groups], dtype=np.float64)
    possible = (_enlarged(groups) <= MAX_UPSCALING) & (pixels[None] <= most[:, None])
    found = []
    for share in CROPPED:
        allowed = possible & (cropped <= share) & (pixels[None] >= (1 - share) * pixels[:, None])
        np.fill_diagonal(allowed, val=True)
        found.append(_assigned(groups, allowed, cropped))
    return found


def _cropped(groups: list[_Group]) -> Matrix:
    """[group, size]: the largest share of the area that is cropped from any image of the group at the size."""
    shape = np.array([group.own.width / group.own.height for group in groups])
    ratios = [[original.width / original.height for original in group.originals] for group in groups]
    extremes = np.array([[min(each), max(each)] for each in ratios])[:, :, None]
    kept: Matrix = np.minimum(extremes / shape, shape / extremes).min(axis=1)
    return 1 - kept


def _enlarged(groups: list[_Group]) -> Matrix:
    """[group, size]: the largest scale that any image of the group needs, or more, to cover the size."""
    narrowest = np.array([min(original.width for original in group.originals) for group in groups])[:, None]
    lowest = np.array([min(original.height for original in group.originals) for group in groups])[:, None]
    widths, heights = (np.array([getattr(group.own, side) for group in groups]) for side in ("width", "height"))
    enlarged: Matrix = np.maximum(widths / narrowest, heights / lowest)
    return enlarged


def _assigned(groups: list[_Group], allowed: NDArray[np.bool_], cropped: Matrix) -> _Assignment:
    """Choose the size that most images can have, then that of most others, and so on (greedy set cover); then give
    each group its own size, if it is chosen, or that at which least is cropped."""
    images, is_left = np.array([group.count for group in groups]), np.ones(len(groups), dtype=bool)
    gains = images @ allowed
    chosen: list[int] = []
    while is_left.any():
        chosen.append(int(gains.argmax()))
        covered = is_left & allowed[:, chosen[-1]]
        gains = gains - images[covered] @ allowed[covered]
        is_left &= ~covered
    costs = np.where(allowed, cropped, math.inf)[:, chosen]
    targets = [index if index in chosen else chosen[int(costs[index].argmin())] for index in range(len(groups))]
    moved = [cropped[index, target] for index, target in enumerate(targets) if index != target]
    return _Assignment.of(groups, targets, cropped=float(max(moved, default=0.0)))
