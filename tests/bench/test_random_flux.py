"""Random FLUX has the published shape, the same weights in every precision, and inputs of matching sizes."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from bench.random_flux import (
    DEV,
    KLEIN_4B,
    KLEIN_9B,
    random_dataset,
    random_lora,
    random_pipeline,
    random_transformer,
    tiny_sizes,
)
from lora.families.frozen_transformer import WeightPlacement
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.recipe.layers import block_layers

CPU = torch.device("cpu")


def placement(precision: str) -> WeightPlacement:
    return WeightPlacement(precision, modulation_on_host=False, device=CPU)


@pytest.fixture(scope="module")
def sizes():
    return tiny_sizes()


# FLUX.1-dev: the transformer, the VAE, CLIP and T5 (performance.md 1.1). klein: the transformer, Qwen3 and the VAE.
@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        (DEV, 11_901_408_320 + 83_819_683 + 123_060_480 + 4_762_310_656),
        (KLEIN_4B, 3_875_544_576 + 4_022_468_096 + 84_046_115),
        (KLEIN_9B, 9_078_581_248 + 8_190_735_360 + 84_046_115),
    ],
    ids=["dev", "klein-4B", "klein-9B"],
)
def test_a_base_has_as_many_parameters_as_the_published_one(sizes, parameters):
    assert sizes.parameters == parameters


def test_weights_are_the_same_in_every_precision(sizes):
    exact, rounded = (random_transformer(sizes, placement(precision)) for precision in ("fp32", "int8"))
    layer, x = exact.transformer_blocks[0].attn.to_q, torch.randn(32, 192)
    difference = (layer(x) - rounded.transformer_blocks[0].attn.to_q(x)).norm()
    assert 0 < difference < 0.02 * layer(x).norm()
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(exact.x_embedder.weight, rounded.x_embedder.weight)


def test_biases_are_zero_and_norms_one(sizes):
    named = dict(random_transformer(sizes, placement("fp32")).named_parameters())
    vectors = {name: value for name, value in named.items() if value.dim() == 1}
    assert all((value == (0.0 if name.endswith("bias") else 1.0)).all() for name, value in vectors.items())
    assert {name.rpartition(".")[2] for name in vectors} == {"bias", "weight"}


@pytest.mark.parametrize("base", ["dev", "klein-4B"])
def test_a_random_pipeline_generates_an_image(base):
    sizes = tiny_sizes(base)
    pipeline = random_pipeline(sizes, random_transformer(sizes, placement("fp32")))
    (image,) = pipeline(
        prompt="a red square", width=32, height=32, num_inference_steps=1, max_sequence_length=16
    ).images
    assert image.size == (32, 32)


def test_inputs_have_the_sizes_of_the_model(sizes):
    dataset = random_dataset(sizes, side=64, count=2, dtype=torch.bfloat16)
    example, other = dataset.examples
    assert example.latents.shape == (16, 8, 8)
    assert example.prompt.tokens.shape == (16, sizes.transformer["joint_attention_dim"])
    assert example.prompt.tokens.dtype == torch.bfloat16
    assert not torch.equal(example.latents, other.latents)


def test_a_random_lora_has_the_tensors_of_a_trained_one(sizes):
    transformer = random_transformer(sizes, placement("fp32"))
    add_lora(transformer, layers=block_layers(sizes.transformer, FluxTransformer2DModel), rank=4, seed=0)
    trained, random = (
        lora_tensors(transformer),
        random_lora(block_layers(sizes.transformer, FluxTransformer2DModel), rank=4, seed=0),
    )
    assert {name: (each.shape, each.dtype) for name, each in random.items()} == {
        name: (each.shape, each.dtype) for name, each in trained.items()
    }
