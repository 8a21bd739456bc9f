"""Which sizes an image is trained at. Knows no latents and no caption."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lora.images.size import Size

STEP = 16  # FLUX's tokens are 16 pixels a side
TOKENS_OF_A_TILE = 128  # attention and matrix kernels work in tiles of so many tokens; the text is four of them
MOST_AREA_FOR_TILES = 0.03
MOST_UPSCALING = 1.1
MOST_CUT = 0.499999  # of a step: less than half, however it is rounded


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A size in steps, lying on its long side."""

    long: int
    short: int

    @property
    def tokens(self) -> int:
        return self.long * self.short

    def is_next_to(self, ratio: float) -> bool:
        """Whether no size of as many rows comes nearer to a ratio from its side."""
        return abs(self.long - self.short * ratio) < 1

    def cut(self, ratio: float) -> float:
        """How many steps of a picture of this ratio stand over on the side that does not fit."""
        return max(self.long / ratio - self.short, self.short * ratio - self.long)


def training_sizes(original: Size, *, resolutions: Iterable[int]) -> list[Size]:
    """The sizes an image is trained at, smallest first. One too small for two resolutions has the same size at both,
    and is trained at that size once."""
    sizes = {training_size(original, resolution=resolution) for resolution in resolutions}
    return sorted(sizes, key=lambda size: size.pixels)


def training_size(original: Size, *, resolution: int) -> Size:
    """The bucket for an image at a resolution: sides in multiples of 16, area at most resolution².

    Less than half a step is cut off on one side, and nothing is enlarged by more than a tenth. Of the sizes next to its
    shape that allow this it is the largest, or one whose tokens are a multiple of 128 where that costs less than 3 % of
    the area. An image too small for the resolution is trained as large as it is, to an eighth, so that such images
    share sizes.
    """
    long, short = max(original.width, original.height), min(original.width, original.height)
    buckets = list(_buckets(long, short, tokens=(_side(original, resolution) / STEP) ** 2))
    nearest = [bucket for bucket in buckets if bucket.is_next_to(long / short)]
    least = (1 - MOST_AREA_FOR_TILES) * max(bucket.tokens for bucket in nearest)
    tiled = [bucket for bucket in buckets if bucket.tokens % TOKENS_OF_A_TILE == 0 and bucket.tokens > least]
    best = max(tiled or nearest, key=lambda bucket: (bucket.tokens, -bucket.cut(long / short)))
    sides = best.long * STEP, best.short * STEP
    return Size(*sides) if original.width >= original.height else Size(*reversed(sides))


def _side(original: Size, resolution: int) -> int:
    """The resolution, or what comes nearest to it in a smaller image, rounded down to an eighth of an octave."""
    own = math.isqrt(original.width * original.height)
    if resolution <= own * MOST_UPSCALING:
        return resolution
    grain = max(STEP, 2 ** (own.bit_length() - 4))
    return own // grain * grain


def _buckets(long: int, short: int, *, tokens: float) -> Iterator[_Bucket]:
    """All sizes of at most so many tokens that hold a picture of these sides as `training_size` promises, of those
    near the largest; a size of half the tokens is not looked for."""
    ratio, found = long / short, 0
    for rows in range(math.isqrt(int(tokens / ratio)) + 1, 0, -1):
        for columns in range(math.floor(rows * ratio), math.ceil((rows + MOST_CUT) * ratio) + 1):
            bucket = _Bucket(columns, rows)
            enlarged = max(columns * STEP / long, rows * STEP / short)
            if bucket.tokens <= tokens and enlarged <= MOST_UPSCALING and bucket.cut(ratio) < MOST_CUT:
                found = max(found, bucket.tokens)
                yield bucket
        if rows * rows * ratio * 2 < found:
            return
