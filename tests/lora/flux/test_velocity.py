"""The transformer is asked in training what the pipeline asks it when it draws, keyword by keyword."""

import pytest
import torch

from lora.flux.latents import pack, unpack
from lora.flux.prompt import Prompt, encode_prompt, text_tokens
from lora.flux.velocity import predict_velocity
from lora.training.learning.batches import Batch
from lora.training.learning.flow import point_on_path, velocity_of_path
from lora.training.learning.losses import loss_at
from tests.tiny import TINY_TEXT_TOKENS, assert_same_call, recorded_calls, tiny_pipeline

HEIGHT, WIDTH = 6, 10  # of latents: 48x80 pixels, not square
TEXT = "a photo of TOK, on a table"


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def noise():
    return torch.randn(1, 16, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def drawn_calls(pipeline, noise):
    """What reaches the transformer while the pipeline draws from `noise` in three steps with guidance 1."""
    with recorded_calls(pipeline.transformer) as calls:
        draw(pipeline, noise, steps=3, prompt=TEXT)
    return calls


def draw(pipeline, noise, *, steps, **prompt):
    """Packed latents, drawn by the real pipeline."""
    return pipeline(
        **prompt,
        latents=pack(noise),
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_inference_steps=steps,
        guidance_scale=1.0,
        max_sequence_length=text_tokens(pipeline),
        output_type="latent",
    ).images


@pytest.mark.parametrize("step", [0, 1, 2])
def test_every_keyword_equals_the_pipelines(pipeline, drawn_calls, step):
    """Traps 6, 8, 13, 14, 15, 16."""
    theirs = drawn_calls[step]
    prompt = Prompt.stack([encode_prompt(pipeline, TEXT)])
    noisy = unpack(theirs["hidden_states"], height=HEIGHT, width=WIDTH)
    with recorded_calls(pipeline.transformer) as calls, torch.no_grad():
        predict_velocity(pipeline.transformer, noisy, sigmas=theirs["timestep"], prompt=prompt, guidance=1.0)
    assert_same_call(calls[0], theirs)


def test_training_asks_what_the_pipeline_asks_at_its_first_step(pipeline, noise, drawn_calls):
    """Traps 6, 8, 13, 14, 15, 16: at sigma 1, where the noisy latents are the noise itself."""
    batch = Batch(torch.randn(noise.shape), Prompt.stack([encode_prompt(pipeline, TEXT)]))
    with recorded_calls(pipeline.transformer) as calls, torch.no_grad():
        loss_at(pipeline.transformer, batch, noise=noise, sigmas=torch.ones(1))
    assert_same_call(calls[0], drawn_calls[0])


def test_time_is_told_between_0_and_1(pipeline, drawn_calls):
    """Trap 6: the pipeline's timestep is the scheduler's sigma, as ours is."""
    told = torch.cat([call["timestep"] for call in drawn_calls])
    assert torch.allclose(told, pipeline.scheduler.sigmas[:3], atol=1e-6)


def test_text_is_as_many_tokens_as_the_base_reads_and_one_pooled_vector(pipeline, drawn_calls):
    """Traps 15, 16."""
    prompt = encode_prompt(pipeline, TEXT)
    with torch.no_grad():
        tokens, pooled, text_ids = pipeline.encode_prompt(TEXT, prompt_2=None, max_sequence_length=TINY_TEXT_TOKENS)
    assert prompt.tokens.shape[0] == TINY_TEXT_TOKENS
    assert torch.equal(prompt.tokens, tokens[0])
    assert torch.equal(prompt.pooled, pooled[0])
    assert torch.equal(drawn_calls[0]["txt_ids"], text_ids)


def test_places_of_text_do_not_grow_with_the_batch(pipeline):
    """Trap 14."""
    prompt = Prompt.stack([encode_prompt(pipeline, TEXT), encode_prompt(pipeline, "")])
    with recorded_calls(pipeline.transformer) as calls, torch.no_grad():
        noisy = torch.randn(2, 16, HEIGHT, WIDTH)
        predict_velocity(pipeline.transformer, noisy, sigmas=torch.tensor([0.2, 0.9]), prompt=prompt, guidance=1.0)
    assert calls[0]["txt_ids"].shape == (prompt.tokens.shape[1], 3)
    assert calls[0]["guidance"].shape == (2,)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_the_pipeline_finds_the_picture_again_along_our_velocity(monkeypatch, pipeline, noise, steps):
    """Traps 9, 45: a transformer that answers with our target leads the real scheduler back to the clean latents."""
    clean = torch.randn(noise.shape, generator=torch.Generator().manual_seed(8))
    answer = pack(velocity_of_path(clean, noise))
    monkeypatch.setattr(pipeline.transformer, "forward", lambda **_: (answer,))
    start = point_on_path(clean, noise, torch.ones(1))
    drawn = unpack(draw(pipeline, start, steps=steps, prompt=TEXT), height=HEIGHT, width=WIDTH)
    assert (drawn - clean).abs().max() < 5e-6
