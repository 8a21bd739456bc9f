"""Which images are held out for validation. Loads no model, so that `script/check` can say it at once."""

from collections.abc import Set

import torch

from lora.training.learning.randomness import generator_for

MIN_IMAGES, SHARE_HELD_OUT, MAX_HELD_OUT = 12, 0.1, 4


def count_held_out(images: int) -> int:
    """How many of `images` distinct images are held out."""
    return min(round(SHARE_HELD_OUT * images), MAX_HELD_OUT) if images >= MIN_IMAGES else 0


def held_out_contents(contents: Set[str], *, seed: int) -> frozenset[str]:
    """Which of the distinct images, by the sha256 of their files, are held out."""
    found = sorted(contents)
    order = torch.randperm(len(found), generator=generator_for(seed, "held out")).tolist()
    return frozenset(found[index] for index in order[: count_held_out(len(found))])
