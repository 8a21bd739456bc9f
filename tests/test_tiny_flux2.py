"""The embedded FLUX.2 [klein] base follows prompts with stock diffusers, and has the parts of the published model."""

import itertools
import random

import pytest
import torch

from script.tiny_flux.autoencoder_pool import normalized, pixels_of
from script.tiny_flux.following import score
from script.tiny_flux.klein.networks import READ_LAYERS
from script.tiny_flux.klein.report import load_klein
from script.tiny_flux.latents import model_latents
from script.tiny_flux.measure import classify
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import caption, held_out_scenes
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux2"
MAX_BYTES = 20_000_000
SIDE = 128


@pytest.fixture(scope="module")
def pipeline():
    return load_klein(BASE)


def test_the_base_follows_prompts_that_it_is_not_trained_on(pipeline):
    """With the defaults of the pipeline, so with classifier-free guidance at 4, but for the steps and sizes."""
    scenes = random.Random(0).sample(held_out_scenes(), 12)
    images = pipeline(
        prompt=[caption(scene) for scene in scenes],
        width=SIDE,
        height=SIDE,
        num_inference_steps=10,
        max_sequence_length=pipeline.tokenizer.model_max_length,
        generator=[torch.Generator().manual_seed(index) for index in range(len(scenes))],
    ).images
    found = score(list(zip(scenes, images, strict=True)), classifier=classify)
    print(f"\nthe base on held-out combinations: {found}")
    assert found.colour >= 0.95
    assert found.shape >= 0.75


def test_its_parts_are_of_the_classes_and_layout_of_the_published_base(pipeline):
    classes = {name: type(part).__name__ for name, part in pipeline.components.items() if name != "is_distilled"}
    assert classes == {
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "vae": "AutoencoderKLFlux2",
        "text_encoder": "Qwen3ForCausalLM",
        "tokenizer": "Qwen2Tokenizer",  # which transformers also calls Qwen2TokenizerFast
        "transformer": "Flux2Transformer2DModel",
    }
    assert pipeline.config.is_distilled is False
    assert pipeline.transformer.config.guidance_embeds is False
    assert not [name for name, _ in pipeline.transformer.named_parameters() if name.endswith("bias")]
    assert pipeline.scheduler.config.use_dynamic_shifting


def test_the_hidden_states_that_the_pipeline_reads_are_each_from_a_layer_of_its_own(pipeline):
    tokens = pipeline.tokenizer("a red star", return_tensors="pt")
    with torch.no_grad():
        states = pipeline.text_encoder(**tokens, output_hidden_states=True).hidden_states
    behind_layers = states[:-1]  # the last is behind the final norm
    pairs = enumerate(itertools.pairwise(behind_layers), start=1)
    changes = [number for number, (before, after) in pairs if not torch.equal(before, after)]
    assert tuple(changes) == READ_LAYERS


def test_the_latents_of_the_world_have_mean_0_and_variance_1(pipeline):
    images = torch.stack([pixels_of(image) for _, image in monster_scenes(16, seed=5)])
    with torch.no_grad():
        latents = model_latents(pipeline.vae, pipeline.vae.encode(normalized(images)).latent_dist.mean)
    assert latents.mean().abs() < 0.2
    assert 0.6 < latents.var() < 1.6


def test_the_base_is_small_and_contains_no_pickle():
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert {path.suffix for path in files} == {".json", ".jinja", ".safetensors"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
