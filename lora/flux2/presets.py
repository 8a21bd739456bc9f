"""The presets of FLUX.2 [klein]: the settings for each kind of LoRA, for inputs that leave the choice open.

docs/training.md says where the numbers come from; those for which it names no source are our choice. Nothing was
measured on klein.
"""

from collections.abc import Mapping
from dataclasses import replace

from lora.base.presets import EDIT, REPLICATE, Preset, StepRule

# A person, a pet, a thing. Unlike in FLUX.1, sigma has the shift for the image size: LoRAs are also used on klein that
# is distilled for four steps. At 1024 px all of these have a sigma above 0.76, where a logit-normal around 0 draws one
# sample in eight. Captions are dropped to the trigger word: the empty prompt stays what guidance leads away from.
SUBJECT = Preset(
    learning_rate=3e-4,
    lora_rank=32,
    steps=StepRule(60, 500, 1200),
    logit_mean=None,
    style_share=0.0,
    offset_noise=0.0,
    caption_dropout_rate=0.05,
    drops_to_trigger=True,
    preservation=0.25,
    preservation_weight=2.0,
    views=4,
    ema_decay=0.99,
    ema_warms_up=True,
    weight_decay=1e-4,
    epsilon=1e-8,
)

# What is no subject is trained on whole images, without preservation, and its captions are dropped to nothing.
WHOLE_IMAGES = replace(SUBJECT, drops_to_trigger=False, preservation=0.0, preservation_weight=1.0, views=1)

PRESETS: Mapping[str, Preset] = {
    "subject": SUBJECT,
    # Style is decided at high noise. The empty prompt learns it, too: guidance exaggerates what that prompt lacks.
    "style": replace(
        WHOLE_IMAGES,
        learning_rate=2e-4,
        steps=StepRule(40, 500, 1500),
        style_share=0.65,
        caption_dropout_rate=0.1,
    ),
    # Many images of different things.
    "general": replace(
        WHOLE_IMAGES,
        learning_rate=1.5e-4,
        steps=StepRule(25, 1000, 4000),
        ema_decay=0.995,
        weight_decay=1e-2,
    ),
    "replicate": REPLICATE,
    # Before and after, with the instruction as caption. Rank, rate and steps are between those of ai-toolkit, fal and
    # others. A dropped instruction is empty: the prompt that guidance leads away from then knows the reference, too.
    # Crops would teach to crop, and an instruction is no word that has to be kept apart from other prompts.
    EDIT: replace(
        WHOLE_IMAGES,
        learning_rate=1.5e-4,
        steps=StepRule(50, 1000, 3000),
    ),
}
