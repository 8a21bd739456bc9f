"""In training, the transformer gets the same inputs as in the pipeline's generation, keyword by keyword."""

import pytest
import torch

from lora.base.prompt import Prompt
from lora.flux2.latents import pack, unpack
from lora.flux2.prompt import encode_prompt, text_tokens
from lora.flux2.velocity import predict_velocity
from lora.training.learning.flow_matching import add_noise, velocity_target
from tests.tiny import assert_same_call, recorded_calls

HEIGHT, WIDTH = 3, 5  # of latents: 48x80 pixels, not square
TEXT = "a photo of TOK, on a table"


@pytest.fixture(scope="module")
def noise(klein):
    channels = klein.transformer.config.in_channels
    return torch.randn(1, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7))


def generate(klein, noise, *, steps, guidance=4.0, **options):
    """An image of the real pipeline."""
    return klein(
        prompt=TEXT,
        latents=noise,
        height=HEIGHT * 16,
        width=WIDTH * 16,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=text_tokens(klein),
        output_type="latent",
        **options,
    ).images


@pytest.fixture(scope="module")
def pipeline_calls(klein, noise):
    """The transformer's inputs while the pipeline generates in two steps with guidance: prompt, empty prompt, ..."""
    with recorded_calls(klein.transformer) as calls:
        generate(klein, noise, steps=2)
    return calls


@pytest.mark.parametrize("call", range(4))
def test_every_keyword_equals_the_pipelines(klein, pipeline_calls, call):
    theirs = pipeline_calls[call]
    prompt = Prompt.stack([encode_prompt(klein, "" if call % 2 else TEXT)])
    noisy = unpack(theirs["hidden_states"], height=HEIGHT, width=WIDTH)
    with recorded_calls(klein.transformer) as calls, torch.no_grad():
        predict_velocity(klein.transformer, noisy, sigmas=theirs["timestep"], prompt=prompt, guidance=1.0)
    assert_same_call(calls[0], theirs)


def test_the_timestep_is_the_schedulers_sigma(klein, pipeline_calls):
    timesteps = torch.cat([call["timestep"] for call in pipeline_calls])
    assert torch.allclose(timesteps, klein.scheduler.sigmas[:2].repeat_interleave(2), atol=1e-6)


def test_each_sample_of_a_batch_is_predicted_as_alone(klein):
    prompts = [encode_prompt(klein, text) for text in (TEXT, "")]
    noisy = torch.randn(2, klein.transformer.config.in_channels, HEIGHT, WIDTH)
    sigmas = torch.tensor([0.2, 0.9])

    def predicted(which):
        prompt = Prompt.stack(prompts[which])
        return predict_velocity(klein.transformer, noisy[which], sigmas=sigmas[which], prompt=prompt, guidance=1.0)

    with torch.no_grad():
        together, alone = predicted(slice(2)), [predicted(slice(index, index + 1)) for index in range(2)]
    assert together.shape == noisy.shape
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_the_pipeline_recovers_the_image_along_our_velocity(monkeypatch, klein, noise, steps):
    """With a transformer that returns our target, the real scheduler arrives at the clean latents."""
    clean, last = torch.randn(noise.shape, generator=torch.Generator().manual_seed(8)), []
    target = pack(velocity_target(clean, noise))
    monkeypatch.setattr(klein.transformer, "forward", lambda **_: (target,))

    def keep_last(_pipeline, _step, _time, kwargs):
        last[:] = [kwargs["latents"]]
        return kwargs

    start = add_noise(clean, noise, torch.ones(1))
    generate(klein, start, steps=steps, callback_on_step_end=keep_last)
    assert (unpack(last[0], height=HEIGHT, width=WIDTH) - clean).abs().max() < 5e-6
