"""Seeds: any whole number that a client sends becomes a seed that every way in takes."""

import random

from lora.checks import check_whole, short_repr

SEEDS = 2**31  # seeds are 0 to 2^31 - 1: Cog's command line passes whole numbers as 32 bits with a sign


def check_seed(name: str, given: object) -> int:
    """Return a seed from 0 to 2^31 - 1: a larger one modulo 2^31, a random one for None and negative numbers.

    Some clients send -1 for no seed, and torch takes 64 bits. Raises ValueError with one sentence unless `given` is
    None or a whole number.
    """
    if given is None:
        return random_seed()
    number = check_whole(name, given)
    return number % SEEDS if number >= 0 else random_seed()


def random_seed() -> int:
    """Return a new seed from the operating system."""
    return random.SystemRandom().randrange(SEEDS)


def seed_notes(given: object, used: int) -> tuple[str, ...]:
    """Return one sentence for the log if the seed that was given is too large and another is used, else nothing."""
    if not isinstance(given, int | float) or given < SEEDS:
        return ()
    return (
        f"seed is {short_repr(given)}, beyond the largest of {SEEDS - 1}: {used} is used, its remainder by {SEEDS}",
    )
