"""Random generators by purpose: each purpose has its own generator, so that none affects the others."""

import hashlib

import torch

SEED_BYTES = 4  # a CPU generator uses no more


def generator_for(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A generator for one purpose, such as the noise of image 2 in batch 7; equal arguments give equal numbers.

    It is on the CPU, where it gives the same numbers on every machine. So a training can resume from its step number
    alone, and the numbers in one process do not depend on the number of processes.
    """
    return torch.Generator().manual_seed(seed_for(seed, purpose, *numbers))


def seed_for(seed: int, purpose: str, *numbers: int) -> int:
    """The seed of that generator, 0 to 2^32 - 1, for functions that take a seed."""
    digest = hashlib.sha256(repr((seed, purpose, numbers)).encode()).digest()
    return int.from_bytes(digest[:SEED_BYTES], "little")
