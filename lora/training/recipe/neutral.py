"""Neutral prompts, from which the base model generates the images for preservation."""

import json
from pathlib import Path

from lora.base.latents import TOKEN_PIXELS

PROMPTS_FILE = "neutral_prompts.json"  # in the folder of a base whose subjects differ from those of published ones
MAX_PROMPTS, LONGEST_PROMPT = 64, 1000
LARGEST_SIDE = 512  # pixels: small images represent the base as well as large ones, in a fraction of the time
# For published bases: mostly people, which LoRAs damage first, and some of everything else.
NEUTRAL_PROMPTS = (
    "a photo of a man",
    "a photo of a woman",
    "a photo of a child",
    "a group of people in a park",
    "a close-up portrait of an old person",
    "a photo of a dog",
    "a photo of a cat",
    "a bird on a branch",
    "a car on a street",
    "a house with a garden",
    "a bowl of fruit on a table",
    "a toy on a shelf",
    "a living room with a sofa",
    "mountains behind a lake",
    "a city at night",
    "a watercolor painting of flowers",
)


def neutral_prompts(base: Path) -> tuple[str, ...]:
    """The prompts in `neutral_prompts.json` in the folder of a base, or `NEUTRAL_PROMPTS` if there is no such file.

    Raises ValueError with one sentence if the file is no list of prompts.
    """
    file = base / PROMPTS_FILE
    if not (file.exists() or file.is_symlink()):
        return NEUTRAL_PROMPTS
    expected = f"expected a JSON list of 1 to {MAX_PROMPTS} different prompts, each of 1 to {LONGEST_PROMPT} characters"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error}): {expected}") from error
    if not isinstance(found, list) or not all(map(_is_prompt, found)):
        raise ValueError(f"{file} is not a list of prompts: {expected}")
    if not 1 <= len(found) <= MAX_PROMPTS or len(set(found)) < len(found):
        raise ValueError(f"{file} has {len(found)} prompts, {len(set(found))} of them different: {expected}")
    return tuple(found)


def neutral_side(resolutions: tuple[int, ...]) -> int:
    """The side in pixels of the square neutral images: the smallest training resolution, at most 512, in whole
    tokens."""
    return min(*resolutions, LARGEST_SIDE) // TOKEN_PIXELS * TOKEN_PIXELS


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= LONGEST_PROMPT and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    """Whether the text is valid Unicode; a lone surrogate, which JSON can hold, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
