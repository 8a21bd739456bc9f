"""What a preset consists of: the settings for one kind of LoRA. The presets are those of each family."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EDIT = "edit"  # what only a family has a preset for whose transformer takes references
LORA_TYPES = ("subject", "style", "general", EDIT, "replicate")


@dataclass(frozen=True, slots=True)
class StepRule:
    """The number of steps of one image each: `per_image` for each image, within bounds."""

    per_image: int
    least: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The settings for one kind of LoRA."""

    learning_rate: float  # at rank 16 and one image per step
    lora_rank: int
    steps: StepRule
    logit_mean: float | None  # of sigma; None is the shift for the image size
    style_share: float  # share of samples at the noise level where style is decided
    offset_noise: float
    caption_dropout_rate: float
    drops_to_trigger: bool  # a dropped caption becomes the trigger word alone, otherwise empty
    preservation: float  # share of the steps that also compute the preservation loss
    preservation_weight: float  # of that loss, relative to that of training
    views: int  # of each image at each size: the whole image, and crops of it
    ema_decay: float
    ema_warms_up: bool
    weight_decay: float
    epsilon: float  # of the optimizer


def chosen_preset(presets: Mapping[str, Preset], lora_type: str, *, base: str, others: Iterable[str]) -> Preset:
    """The preset for a kind of LoRA among those of the family of a base. Raises ValueError if the family has none for
    it; `others` are the names of bases that have one."""
    if lora_type in presets:
        return presets[lora_type]
    raise ValueError(
        f"lora_type is {lora_type!r}, and the base {base} takes no reference images: expected a FLUX_BASE that does"
        f" ({', '.join(others)}), or another lora_type ({', '.join(presets)})"
    )


# Exactly what ostris/flux-dev-lora-trainer does.
REPLICATE = Preset(
    learning_rate=4e-4,
    lora_rank=16,
    steps=StepRule(0, 1000, 1000),
    logit_mean=0.0,
    style_share=0.0,
    offset_noise=0.0,
    caption_dropout_rate=0.05,
    drops_to_trigger=True,
    preservation=0.0,
    preservation_weight=1.0,
    views=1,
    ema_decay=0.99,
    ema_warms_up=False,
    weight_decay=1e-2,
    epsilon=1e-6,
)
