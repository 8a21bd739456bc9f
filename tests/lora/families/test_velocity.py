"""In training, the transformer gets the same inputs as in the pipeline's generation, keyword by keyword."""

from dataclasses import dataclass

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lora.base.prompt import Prompt
from lora.training.learning.batches import Batch
from lora.training.learning.flow_matching import add_noise, velocity_target
from lora.training.learning.losses import loss_at
from tests.families import TINY_BASES, TinyBase
from tests.tiny import assert_same_call, recorded_calls

HEIGHT, WIDTH = 3, 5  # of images in tokens: 48x80 pixels, not square
TEXT = "a photo of TOK, on a table"
STEPS = 3


@dataclass(frozen=True, slots=True)
class Generation:
    """The stock pipeline of a base, and the transformer's inputs while it generates from `noise` in three steps."""

    tiny: TinyBase
    pipeline: DiffusionPipeline
    noise: Tensor
    calls: list[dict[str, object]]

    def prompt(self, *texts):
        return Prompt.stack([self.tiny.family.text.encode(self.pipeline, text) for text in texts])

    def predicted(self, noisy, *, sigmas, prompt):
        with torch.no_grad():
            return self.tiny.family.transformer.predict_velocity(
                self.pipeline.transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=self.tiny.guidance
            )


@pytest.fixture(scope="module", params=TINY_BASES, ids=lambda tiny: tiny.family.name)
def generation(request):
    tiny, pipeline = request.param, request.param.pipeline()
    shape = tiny.latents_shape(pipeline, height=HEIGHT, width=WIDTH)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    with recorded_calls(pipeline.transformer) as calls:
        tiny.last_latents(pipeline, TEXT, noise, steps=STEPS, guidance=tiny.guidance)
    assert len(calls) == STEPS * tiny.prompts
    return Generation(tiny, pipeline, noise, calls)


def test_every_keyword_of_every_call_equals_the_pipelines(generation):
    """Traps 6, 8, 13, 14, 15, 16."""
    height, width = generation.noise.shape[2:]
    prompts = [generation.prompt(text) for text in (TEXT, "")]
    for number, theirs in enumerate(generation.calls):
        noisy = generation.tiny.unpack(theirs["hidden_states"], height=height, width=width)
        with recorded_calls(generation.pipeline.transformer) as calls:
            prompt = prompts[number % generation.tiny.prompts]
            generation.predicted(noisy, sigmas=theirs["timestep"], prompt=prompt)
        assert_same_call(calls[0], theirs)


def test_training_has_the_inputs_of_the_pipelines_first_step(generation):
    """Traps 6, 8, 13, 14, 15, 16: at sigma 1, where the noisy latents are the noise itself."""
    batch = Batch(torch.randn(generation.noise.shape), generation.prompt(TEXT))
    with recorded_calls(generation.pipeline.transformer) as calls, torch.no_grad():
        loss_at(generation.pipeline.transformer, batch, noise=generation.noise, sigmas=torch.ones(1))
    assert_same_call(calls[0], generation.calls[0])


def test_the_timestep_is_between_0_and_1(generation):
    """Trap 6: the pipeline's timestep is the scheduler's sigma, as ours is."""
    timesteps = torch.cat([call["timestep"] for call in generation.calls[:: generation.tiny.prompts]])
    assert torch.allclose(timesteps, generation.pipeline.scheduler.sigmas[:STEPS], atol=1e-6)


def test_each_sample_of_a_batch_is_predicted_as_alone(generation):
    noisy, sigmas = torch.cat([generation.noise, generation.noise.flip(2)]), torch.tensor([0.2, 0.9])
    together = generation.predicted(noisy, sigmas=sigmas, prompt=generation.prompt(TEXT, ""))
    alone = [
        generation.predicted(noisy[[index]], sigmas=sigmas[[index]], prompt=generation.prompt(text))
        for index, text in enumerate((TEXT, ""))
    ]
    assert together.shape == noisy.shape
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_the_pipeline_recovers_the_image_along_our_velocity(monkeypatch, generation, steps):
    """Traps 9, 45: with a transformer that returns our target, the real scheduler arrives at the clean latents."""
    tiny, pipeline, noise = generation.tiny, generation.pipeline, generation.noise
    clean = torch.randn(noise.shape, generator=torch.Generator().manual_seed(8))
    target = tiny.pack(velocity_target(clean, noise))
    monkeypatch.setattr(pipeline.transformer, "forward", lambda **_: (target,))
    start = add_noise(clean, noise, torch.ones(1))
    generated = tiny.last_latents(pipeline, TEXT, start, steps=steps, guidance=1.0)
    assert (generated - clean).abs().max() < 5e-6
