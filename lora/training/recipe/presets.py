"""What each kind of LoRA is trained with where a person leaves the choice to us: one table, evidence beside it.

docs/training.md says where the numbers come from.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepRule:
    """Steps of one image each: so many an image, within bounds."""

    per_image: int
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of LoRA."""

    learning_rate: float  # at rank 16 and one image a step
    lora_rank: int
    steps: StepRule
    logit_mean: float | None  # of sigma; None is FLUX's shift for the picture's size
    style_share: float  # of samples at the noise where style is decided
    offset_noise: float
    caption_dropout_rate: float
    drops_to_trigger: bool  # a dropped caption is the trigger word alone, else empty
    views: int  # of each image at each size: whole, and in crops
    ema_decay: float
    ema_warms_up: bool
    weight_decay: float
    epsilon: float  # of the optimizer


PRESETS = {
    # A person, a pet, a thing: its captions are dropped to the trigger word, so that the word alone calls it. Of few
    # images, crops teach more, and move all else less; the shift of sigma taught no more and moved all else further
    # (bench/learning.py, on the embedded base).
    "subject": Preset(
        learning_rate=4e-4,
        lora_rank=16,
        steps=StepRule(60, 500, 1200),
        logit_mean=0.0,
        style_share=0.0,
        offset_noise=0.0,
        caption_dropout_rate=0.05,
        drops_to_trigger=True,
        views=4,
        ema_decay=0.99,
        ema_warms_up=True,
        weight_decay=1e-4,
        epsilon=1e-8,
    ),
    # Style is decided at high noise, and should come without being asked for.
    "style": Preset(
        learning_rate=2e-4,
        lora_rank=32,
        steps=StepRule(40, 800, 2000),
        logit_mean=None,
        style_share=0.65,
        offset_noise=0.01,
        caption_dropout_rate=0.1,
        drops_to_trigger=False,
        views=1,
        ema_decay=0.99,
        ema_warms_up=True,
        weight_decay=1e-4,
        epsilon=1e-8,
    ),
    # Many pictures of many things.
    "general": Preset(
        learning_rate=1.5e-4,
        lora_rank=16,
        steps=StepRule(25, 1000, 4000),
        logit_mean=None,
        style_share=0.0,
        offset_noise=0.0,
        caption_dropout_rate=0.05,
        drops_to_trigger=False,
        views=1,
        ema_decay=0.995,
        ema_warms_up=True,
        weight_decay=1e-2,
        epsilon=1e-8,
    ),
    # What ostris/flux-dev-lora-trainer does, to the letter.
    "replicate": Preset(
        learning_rate=4e-4,
        lora_rank=16,
        steps=StepRule(0, 1000, 1000),
        logit_mean=0.0,
        style_share=0.0,
        offset_noise=0.0,
        caption_dropout_rate=0.05,
        drops_to_trigger=True,
        views=1,
        ema_decay=0.99,
        ema_warms_up=False,
        weight_decay=1e-2,
        epsilon=1e-6,
    ),
}
