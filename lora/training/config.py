"""The knobs of one training job: values, checked once, without defaults (those stand in train.py's signature)."""

from dataclasses import dataclass
from typing import Self

from lora.checks import number, text, whole_number, yes_or_no
from lora.dataset.captions import PLACEHOLDER, PromptRule, one_line

SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 64, 2048
MOST_RESOLUTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What a person asked for."""

    trigger_word: str
    autocaption_prefix: str
    autocaption_suffix: str
    steps: int
    learning_rate: float
    batch_size: int
    resolutions: tuple[int, ...]
    lora_rank: int
    caption_dropout_rate: float
    cache_latents_to_disk: bool
    seed: int

    @property
    def prompt_rule(self) -> PromptRule:
        """How captions become prompts."""
        return PromptRule(self.trigger_word, self.autocaption_prefix, self.autocaption_suffix)

    @classmethod
    def checked(
        cls,
        *,
        trigger_word: str,
        autocaption_prefix: str | None,
        autocaption_suffix: str | None,
        steps: float,
        learning_rate: float,
        batch_size: float,
        resolution: str,
        lora_rank: float,
        caption_dropout_rate: float,
        cache_latents_to_disk: bool,
        seed: float,
    ) -> Self:
        """From the inputs as they arrive; raises ValueError with one sentence that names the input."""
        return cls(
            trigger_word=_trigger_word(trigger_word),
            autocaption_prefix=one_line(text("autocaption_prefix", autocaption_prefix or "", at_most=1000)),
            autocaption_suffix=one_line(text("autocaption_suffix", autocaption_suffix or "", at_most=1000)),
            steps=whole_number("steps", steps, at_least=3, at_most=6000),
            learning_rate=number("learning_rate", learning_rate, at_least=1e-7, at_most=0.1),
            batch_size=whole_number("batch_size", batch_size, at_least=1, at_most=16),
            resolutions=_resolutions(resolution),
            lora_rank=whole_number("lora_rank", lora_rank, at_least=1, at_most=128),
            caption_dropout_rate=number("caption_dropout_rate", caption_dropout_rate, at_least=0.0, at_most=1.0),
            cache_latents_to_disk=yes_or_no("cache_latents_to_disk", cache_latents_to_disk),
            seed=whole_number("seed", seed, at_least=0, at_most=2**31 - 1),
        )


def _trigger_word(trigger_word: str) -> str:
    word = one_line(text("trigger_word", trigger_word, at_most=100))
    if PLACEHOLDER.search(word):
        raise ValueError(f"trigger_word is {word!r}: expected a word, for which captions may say [trigger]")
    return word


def _resolutions(resolution: str) -> tuple[int, ...]:
    """ "512,768" as (512, 768)."""
    expected = f"expected sides in pixels such as 512,768,1024, each {SMALLEST_RESOLUTION} to {LARGEST_RESOLUTION}"
    parts = text("resolution", resolution, at_most=200).split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise ValueError(f"resolution is {resolution!r}: {expected}")
    sides = tuple(dict.fromkeys(int(part) for part in parts))
    if len(sides) > MOST_RESOLUTIONS:
        raise ValueError(f"resolution is {resolution!r}: expected at most {MOST_RESOLUTIONS} sides")
    if not all(SMALLEST_RESOLUTION <= side <= LARGEST_RESOLUTION for side in sides):
        raise ValueError(f"resolution is {resolution!r}: {expected}")
    return sides
