"""All ways to apply LoRAs generate the same: the benchmark compares speed, not images."""

from functools import partial

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from bench.lora_appliers import Hotswap, Ours, OursFast, Stock
from bench.random_flux import random_lora, random_pipeline, random_prompt, random_transformer, tiny_sizes
from lora.base.prompt import Prompt
from lora.families.frozen_transformer import WeightPlacement
from lora.flux.velocity import predict_velocity
from lora.training.recipe.layers import block_layers

SIZES = tiny_sizes()
GENERATOR = torch.Generator().manual_seed(1)
NOISY = torch.randn(1, 16, 8, 8, generator=GENERATOR)
PROMPT = Prompt.stack([random_prompt(SIZES, GENERATOR, torch.float32)])
STRENGTH = 300  # of B, so that the effect of a LoRA exceeds the rounding to 8 bits


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two LoRA files; the second has a smaller rank, and is on attention only."""
    folder = tmp_path_factory.mktemp("loras")
    layers = block_layers(SIZES.transformer, FluxTransformer2DModel)
    attention = {name: shape for name, shape in layers.items() if ".attn." in name}
    loras = [random_lora(layers, rank=8, seed=1), random_lora(attention, rank=4, seed=2)]
    paths = [folder / f"lora{number}.safetensors" for number in range(len(loras))]
    for path, tensors in zip(paths, loras, strict=True):
        save_file({name: t * STRENGTH if "lora_B" in name else t for name, t in tensors.items()}, path)
    return paths


def velocities(make_applier, files) -> list[torch.Tensor]:
    """Velocities with one LoRA, with another, and with the first at half its scale."""
    placement = WeightPlacement("fp32", modulation_on_host=False, device=torch.device("cpu"))
    applier, found = make_applier(random_pipeline(SIZES, random_transformer(SIZES, placement))), []
    for path, scale in ((files[0], 1.0), (files[1], 1.0), (files[0], 0.5)):
        applier.apply({path: scale})
        with applier.generating(), torch.no_grad():
            transformer = applier.pipeline.transformer
            velocity = predict_velocity(transformer, NOISY, sigmas=torch.tensor([0.5]), prompt=PROMPT, guidance=3.5)
        found.append(velocity.clone())
    return found


@pytest.fixture(scope="module")
def stock(files):
    return velocities(Stock, files)


def test_each_lora_has_an_effect(stock):
    one, other, half = stock
    assert min((one - other).norm(), (one - half).norm()) > 0.1 * one.norm()


@pytest.mark.parametrize(
    ("make_applier", "tolerance"), [(Ours, 1e-4), (partial(Hotswap, most_rank=8), 1e-4), (OursFast, 0.05)]
)
def test_all_appliers_have_the_same_effect(stock, files, make_applier, tolerance):
    for ours, theirs in zip(velocities(make_applier, files), stock, strict=True):
        assert (ours - theirs).norm() < tolerance * theirs.norm()
