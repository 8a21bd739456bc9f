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


@dataclass(frozen=True, slots=True)
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
    ema_decay: float
    ema_warms_up: bool
    weight_decay: float
    epsilon: float  # of the optimizer


PRESETS = {
    # A person, a pet, a thing: its captions are dropped to the trigger word, so that the word alone calls it. The shift
    # of sigma taught no more of a subject, and moved everything else further (bench/learning.py, on the embedded base).
    "subject": Preset(2e-4, 16, StepRule(60, 500, 1600), 0.0, 0.0, 0.0, 0.05, True, 0.99, True, 1e-4, 1e-8),
    # Style is decided at high noise, and should come without being asked for.
    "style": Preset(2e-4, 32, StepRule(40, 800, 2000), None, 0.65, 0.01, 0.1, False, 0.99, True, 1e-4, 1e-8),
    # Many pictures of many things.
    "general": Preset(1.5e-4, 16, StepRule(25, 1000, 4000), None, 0.0, 0.0, 0.05, False, 0.995, True, 1e-2, 1e-8),
    # What ostris/flux-dev-lora-trainer does, to the letter.
    "replicate": Preset(4e-4, 16, StepRule(0, 1000, 1000), 0.0, 0.0, 0.0, 0.05, True, 0.99, False, 1e-2, 1e-6),
}
