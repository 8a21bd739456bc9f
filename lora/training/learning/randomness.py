"""Random numbers that say what they are for: each purpose has a generator of its own, and none can disturb another."""

import hashlib

import torch

SEED_BYTES = 4  # all that a generator on the CPU takes in


def generator_for(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A generator for one purpose, such as the noise of image 2 in batch 7; equal arguments give equal numbers.

    It is on the CPU, where every machine draws the same. So a training that goes on at step k needs nothing but k, and
    what one process draws does not depend on how many there are.
    """
    return torch.Generator().manual_seed(seed_for(seed, purpose, *numbers))


def seed_for(seed: int, purpose: str, *numbers: int) -> int:
    """The seed of such a generator, 0 to 2^32 - 1, for what takes a seed."""
    digest = hashlib.sha256(repr((seed, purpose, numbers)).encode()).digest()
    return int.from_bytes(digest[:SEED_BYTES], "little")
