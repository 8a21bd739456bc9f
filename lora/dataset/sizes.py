"""Training sizes of images (buckets). Knows no latents and no captions."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lora.images.size import Size

STEP = 16  # pixels: the side of one token of FLUX
TOKENS_OF_A_TILE = 128  # tile size of attention and matrix kernels; the text takes four tiles
MAX_AREA_FOR_TILES = 0.03  # fraction of the area given up for whole tiles
MAX_UPSCALING = 1.1
MAX_CROPPED_STEPS = 0.499999  # steps: less than half a step, despite rounding


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A size in steps, in landscape orientation."""

    long: int
    short: int

    @property
    def tokens(self) -> int:
        return self.long * self.short

    def is_next_to(self, ratio: float) -> bool:
        """Whether it is one of the two sizes with this number of rows that are closest to the aspect ratio."""
        return abs(self.long - self.short * ratio) < 1

    def cut(self, ratio: float) -> float:
        """How many steps are cropped from an image of this aspect ratio, along the side that does not fit."""
        return max(self.long / ratio - self.short, self.short * ratio - self.long)


def training_sizes(original: Size, *, resolutions: Iterable[int]) -> list[Size]:
    """The sizes an image is trained at, smallest first. An image that is too small for two resolutions has the same
    size at both, and is trained at that size once."""
    sizes = {training_size(original, resolution=resolution) for resolution in resolutions}
    return sorted(sizes, key=lambda size: size.pixels)


def training_size(original: Size, *, resolution: int) -> Size:
    """The bucket for an image at a resolution: sides are multiples of 16, the area is at most resolution².

    Less than half a step (8 pixels) is cropped along one side, and no image is enlarged by more than 10 %. Of the sizes
    closest to the aspect ratio that satisfy this, it is the largest, or one whose number of tokens is a multiple of 128
    if that costs less than 3 % of the area. An image that is too small for the resolution is trained at its own size,
    rounded down to one of eight steps between powers of two, so that such images share sizes.
    """
    long, short = max(original.width, original.height), min(original.width, original.height)
    buckets = list(_buckets(long, short, tokens=(_side(original, resolution) / STEP) ** 2))
    nearest = [bucket for bucket in buckets if bucket.is_next_to(long / short)]
    least = (1 - MAX_AREA_FOR_TILES) * max(bucket.tokens for bucket in nearest)
    tiled = [bucket for bucket in buckets if bucket.tokens % TOKENS_OF_A_TILE == 0 and bucket.tokens > least]
    best = max(tiled or nearest, key=lambda bucket: (bucket.tokens, -bucket.cut(long / short)))
    sides = best.long * STEP, best.short * STEP
    return Size(*sides) if original.width >= original.height else Size(*reversed(sides))


def _side(original: Size, resolution: int) -> int:
    """The resolution, or for a smaller image its own, rounded down to one of eight steps between powers of
    two, which are at least 16 pixels."""
    own = math.isqrt(original.width * original.height)
    if resolution <= own * MAX_UPSCALING:
        return resolution
    grain = max(STEP, 2 ** (own.bit_length() - 4))
    return own // grain * grain


def _buckets(long: int, short: int, *, tokens: float) -> Iterator[_Bucket]:
    """Sizes of at most `tokens` tokens that satisfy the conditions of `training_size` for an image of these sides. The
    search stops at half the tokens of the largest one."""
    ratio, found = long / short, 0
    for rows in range(math.isqrt(int(tokens / ratio)) + 1, 0, -1):
        for columns in range(math.floor(rows * ratio), math.ceil((rows + MAX_CROPPED_STEPS) * ratio) + 1):
            bucket = _Bucket(columns, rows)
            scale = max(columns * STEP / long, rows * STEP / short)
            if bucket.tokens <= tokens and scale <= MAX_UPSCALING and bucket.cut(ratio) < MAX_CROPPED_STEPS:
                found = max(found, bucket.tokens)
                yield bucket
        if rows * rows * ratio * 2 < found:
            return
