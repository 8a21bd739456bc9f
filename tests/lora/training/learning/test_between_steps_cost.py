"""Validation and samples take a small part of a training at default settings, counted in floating-point operations at
the size of the published bases, as nothing was measured on a GPU."""

import functools
from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.random_flux import BASES
from lora.base.prompt import Prompt
from lora.training.learning.adapter import add_lora
from lora.training.learning.preservation import STEPS
from lora.training.learning.validation import LOSSES, validation_steps
from lora.training.recipe.neutral import NEUTRAL_PROMPTS, neutral_side
from lora.training.recipe.samples import sample_settings
from tests.lora.training.recipe.test_samples import images
from tests.tiny import checked_config

# Groups of blocks: one double block, and as many single ones as there are for each. Two of them are counted.
GROUPS = {"dev": 19, "klein-9B": 8}
NUMBERS = {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"}


@dataclass(frozen=True)
class Passes:
    """The operations of a forward pass and of a step without recomputing, with one image."""

    forward: int
    step: int


def passes(base, side):
    """Of all blocks: what is counted for one group, and the difference that another makes for each of the others."""
    one, two = (of_one_image(base, groups, side) for groups in (1, 2))
    others = GROUPS[base] - 1
    return Passes(one.forward + others * (two.forward - one.forward), one.step + others * (two.step - one.step))


@functools.cache
def transformer_of(base, groups):
    sizes = BASES[base]
    counts = {name: groups * (sizes.transformer[name] // GROUPS[base]) for name in NUMBERS.values()}
    with torch.device("meta"):
        model = sizes.family.components.transformer.from_config({**sizes.transformer, **counts}).requires_grad_(False)
    layers = [name for name in sizes.layers if int(name.split(".")[1]) < counts[NUMBERS[name.split(".")[0]]]]
    add_lora(model, layers=layers, rank=16, seed=0)
    return model.to("meta")


def of_one_image(base, groups, side):
    sizes, model = BASES[base], transformer_of(base, groups)
    latents, config = sizes.family.latents, sizes.transformer
    shape = 1, config["in_channels"] // latents.patch**2, side // latents.pixels, side // latents.pixels
    with torch.device("meta"):
        noisy, sigmas, width = torch.empty(shape), torch.empty(1), config.get("pooled_projection_dim")
        tokens = torch.empty(1, sizes.text_tokens, config["joint_attention_dim"])
        prompt = Prompt(tokens, torch.empty(1, width) if width else None)
    with FlopCounterMode(display=False) as counter:
        velocity = sizes.family.transformer.predict_velocity(model, noisy, sigmas=sigmas, prompt=prompt, guidance=1.0)
        forward = counter.get_total_flops()
        velocity.sum().backward()
    return Passes(forward, counter.get_total_flops())


@pytest.mark.parametrize("base", ["dev", "klein-9B"])
def test_validation_and_samples_take_less_than_a_twentieth_of_a_default_training_of_1000_steps(base):
    """A subject's, which preserves. Where guidance is classifier-free, each step of an image takes two passes."""
    config, family = checked_config(), BASES[base].family
    guidance, preset = family.sampling.defaults.guidance, family.presets["subject"]
    samples = sample_settings(config, images("a TOK"), default_guidance=guidance)
    small, middle = min(config.resolutions), sorted(config.resolutions)[(len(config.resolutions) - 1) // 2]
    counted = {side: passes(base, side) for side in {*config.resolutions, samples.side}}
    per_image = 2 if family.text.has_negative else 1
    validation = len(validation_steps(1000)) * LOSSES * counted[middle].forward
    generated = 2 * len(samples.prompts) * samples.steps * per_image * counted[samples.side].forward
    steps = 1000 * sum(counted[side].step for side in config.resolutions) / len(config.resolutions)
    neutral = counted[neutral_side(config.resolutions)]
    preserving = 1000 * preset.preservation * (neutral.forward + neutral.step)
    preserving += len(NEUTRAL_PROMPTS) * STEPS * per_image * neutral.forward
    shares = [100 * each / (steps + preserving) for each in (validation, generated)]
    print(f"\n{base}: {shares[0]:.2f} % for validation, {shares[1]:.2f} % for samples")
    print(f"without preservation {100 * (validation + generated) / steps:.2f} %")
    assert counted[small].forward < counted[middle].forward
    assert sum(shares) < 5
