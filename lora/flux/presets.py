"""The presets of FLUX.1: the settings for each kind of LoRA, for inputs that leave the choice open.

docs/training.md says where the numbers come from; those for which it names no source are our choice.
"""

from collections.abc import Mapping

from lora.base.presets import REPLICATE, Preset, StepRule

PRESETS: Mapping[str, Preset] = {
    # A person, a pet, a thing. Captions are dropped to the trigger word, so that the word alone is enough in a prompt.
    # With crops, the subject is learned as well and other prompts change less. With FLUX's shift of sigma, it was
    # learned no better and other prompts changed more; with preservation of this share and weight, it was learned
    # nearly as well and other prompts changed a fifth as much (bench/learning.py, on the embedded base).
    "subject": Preset(
        learning_rate=4e-4,
        lora_rank=16,
        steps=StepRule(60, 500, 1200),
        logit_mean=0.0,
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
    ),
    # A style should appear without a trigger word. With most samples at high noise (arXiv 2411.14793) and half the
    # rate, less of it was learned, and other prompts changed more (bench/learning.py, on the embedded base).
    "style": Preset(
        learning_rate=4e-4,
        lora_rank=32,
        steps=StepRule(40, 800, 2000),
        logit_mean=0.0,
        style_share=0.0,
        offset_noise=0.01,
        caption_dropout_rate=0.1,
        drops_to_trigger=False,
        preservation=0.0,
        preservation_weight=1.0,
        views=1,
        ema_decay=0.99,
        ema_warms_up=True,
        weight_decay=1e-4,
        epsilon=1e-8,
    ),
    # Many images of different things. At half the rate and without preservation, less of them was learned than with the
    # public recipe, and other prompts changed three times as much (bench/learning.py, on the embedded base).
    "general": Preset(
        learning_rate=3e-4,
        lora_rank=16,
        steps=StepRule(25, 1000, 4000),
        logit_mean=None,
        style_share=0.0,
        offset_noise=0.0,
        caption_dropout_rate=0.05,
        drops_to_trigger=False,
        preservation=0.25,
        preservation_weight=2.0,
        views=1,
        ema_decay=0.995,
        ema_warms_up=True,
        weight_decay=1e-2,
        epsilon=1e-8,
    ),
    "replicate": REPLICATE,
}
