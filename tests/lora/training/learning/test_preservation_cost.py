"""What preservation costs at FLUX's size, counted in floating-point operations, as nothing was measured on a GPU."""

from collections.abc import Callable

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from lora.base.prompt import Prompt
from lora.engine.lora_layers import lora_layers, without_lora
from lora.flux.presets import PRESETS
from lora.flux.velocity import predict_velocity
from lora.training.learning.adapter import add_lora
from lora.training.learning.preservation import STEPS
from lora.training.recipe.neutral import NEUTRAL_PROMPTS
from tests.tiny import all_layers

GROUPS = 19  # FLUX.1 has 19 double and 38 single blocks: what is counted is one double block and two single ones
TERA = 1e12


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    """A nineteenth of FLUX.1, without weights."""
    with torch.device("meta"):
        found = FluxTransformer2DModel(guidance_embeds=True, num_layers=1, num_single_layers=2).requires_grad_(False)
    add_lora(found, layers=all_layers(found), rank=16, seed=0)
    return found.to("meta")


def count(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def predict(transformer, side: int) -> torch.Tensor:
    with torch.device("meta"):
        noisy, sigmas = torch.empty(1, 16, side // 8, side // 8), torch.empty(1)
        prompt = Prompt(torch.empty(1, 512, 4096), torch.empty(1, 768))
    return predict_velocity(transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=1.0)


def passes(transformer, side: int) -> tuple[int, int]:
    """The operations of a forward pass without the LoRA, and of a forward and backward pass with it."""

    @torch.no_grad()
    def alone() -> None:
        with without_lora(lora_layers(transformer)):
            predict(transformer, side)

    return count(alone), count(lambda: predict(transformer, side).sum().backward())


def test_a_step_of_a_subject_costs_at_most_four_tenths_more_on_average(transformer):
    """At 512 px, where neutral images are as large as those of the training, and at the default resolutions."""
    alone, plain = passes(transformer, 512)
    larger = [plain, *(passes(transformer, side)[1] for side in (768, 1024))]
    extra = PRESETS["subject"].preservation * (alone + plain)
    at_512, by_default = 1 + extra / plain, 1 + extra / (sum(larger) / len(larger))
    recomputing = 1 + PRESETS["subject"].preservation * (2 * alone + plain) / (alone + plain)
    print(f"\nat 512 px {at_512:.3f}, recomputing blocks {recomputing:.3f}; at 512, 768 and 1024 px {by_default:.3f}")
    assert by_default < recomputing < at_512 < 1.4


def test_the_neutral_images_cost_as_much_as_a_hundred_steps_at_most(transformer):
    alone, plain = passes(transformer, 512)
    operations = len(NEUTRAL_PROMPTS) * STEPS * alone
    print(f"\n{GROUPS * operations / TERA:.0f} TFLOP, as many as {operations / plain:.0f} steps at 512 px")
    assert operations < 100 * plain
