"""Which sample images a training generates: their prompts, size, steps and guidance."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lora.dataset.crops import WHOLE, Crop
from lora.dataset.reading import CaptionedImage
from lora.training.recipe.config import TrainConfig

# Without prompts of the user: images of at most this side, before and after the training. With the defaults of the
# signature they are 80 forward passes, or 160 where guidance takes two; together with validation they are less than 5 %
# of the operations of 1,000 default steps.
LARGEST_DEFAULT_SIDE = 512
SAMPLE_PAIRS = 2  # images with references that have a sample by default
# The first that no caption names. The embedded base knows the first two.
PLACES = (
    "in the desert",
    "in a meadow",
    "on a beach",
    "in a forest",
    "in the snow",
    "in a city at night",
    "in a kitchen",
    "on a stage",
)


@dataclass(frozen=True, slots=True)
class SamplePair:
    """The image whose references a sample image is generated beside, in the size of the image."""

    image: int  # its number in the data set
    crop: Crop  # a whole one
    example: int  # the number of this crop among those of all images, as they are encoded


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """The sample images of a training."""

    prompts: tuple[str, ...]  # none without samples
    side: int  # pixels; 0 without samples
    every: int  # steps; 0 generates them only before and after the training
    steps: int  # of denoising
    guidance: float
    pairs: tuple[SamplePair, ...] = ()  # one for each prompt if images have references, else none


def sample_settings(
    config: TrainConfig, images: Sequence[CaptionedImage], *, default_guidance: float
) -> SampleSettings:
    """The sample images that the inputs ask for; without prompts, two of the data set's own, before and after. If
    images have references, each prompt has those of the first image, of the second, and so on in turn.
    `default_guidance` is that of the base's family."""
    side, steps = sample_side(config), config.sample_steps
    guidance = default_guidance if config.sample_guidance is None else config.sample_guidance
    prompts, every = config.sample_prompts, config.sample_every
    if prompts is None:
        own = tuple(image.prompt for image in images[:SAMPLE_PAIRS])
        prompts = own if config.has_references else default_prompts(images, trigger_word=config.trigger_word)
        side, every = side if prompts else 0, 0
    numbers = range(len(prompts)) if config.has_references else ()
    pairs = tuple(_pair(images, number % len(images), side) for number in numbers)
    return SampleSettings(prompts, side, every, steps, guidance, pairs)


def _pair(images: Sequence[CaptionedImage], number: int, side: int) -> SamplePair:
    """An image at its largest size of at most the area of a square of this side, or at its smallest."""
    whole = [crop for crop in images[number].inspection.crops if crop.number == WHOLE]  # smallest first
    fitting = [crop for crop in whole if crop.size.pixels <= side**2]
    crop, before = (fitting or whole[:1])[-1], sum(len(image.inspection.crops) for image in images[:number])
    return SamplePair(number, crop, before + images[number].inspection.crops.index(crop))


def sample_side(config: TrainConfig) -> int:
    """The side of sample images in pixels, 0 if the inputs ask for none. It is known before the captions are."""
    if config.sample_prompts is None:
        return min(max(config.resolutions), LARGEST_DEFAULT_SIDE)
    return max(config.resolutions) if config.sample_prompts else 0


def default_prompts(images: Sequence[CaptionedImage], *, trigger_word: str) -> tuple[str, ...]:
    """A caption as it is trained, and the trigger word in a place that no caption names.

    Without captions or without a trigger word, one of them is missing.
    """
    prompts = [image.prompt for image in images]
    caption = next((prompt for prompt in prompts if prompt and prompt != trigger_word), None)
    elsewhere = f"{trigger_word} {_unnamed_place(prompts)}" if trigger_word else None
    return tuple(prompt for prompt in (caption, elsewhere) if prompt)


def _unnamed_place(prompts: list[str]) -> str:
    """The first place whose nouns no prompt has; the last place if all are named."""
    words = {word for prompt in prompts for word in _words(prompt)}
    little = {"in", "on", "a", "the", "at"}
    return next((place for place in PLACES if not words & (_words(place) - little)), PLACES[-1])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
