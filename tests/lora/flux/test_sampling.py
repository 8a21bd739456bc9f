"""Generating an image while modulation layers are on the host: the same bits, with one copy of their weights."""

import pytest
import torch

from lora.engine.linears import HostLinear
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.sampling import build_pipeline, generate_latents
from tests.tiny import TINY_FLUX, sampling_settings, tiny_prompt

CPU = torch.device("cpu")
MODULATION_LAYERS = 2 * 2 + 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_weights_of_modulation_layers_move_to_the_device_once_an_image(base, monkeypatch, precision):
    copied, weight_on = [], HostLinear.weight_on
    monkeypatch.setattr(HostLinear, "weight_on", lambda *given: copied.append(given) or weight_on(*given))
    images = {}
    for on_host in (True, False):
        transformer = load_transformer(base, WeightPlacement(precision, on_host, CPU))
        pipeline = build_pipeline(transformer, TINY_FLUX)
        settings = sampling_settings(64, steps=20)
        prompts = [tiny_prompt(seed=seed).to(CPU, transformer.dtype) for seed in (1, 2)]
        images[on_host] = [generate_latents(pipeline, prompt, None, settings) for prompt in prompts]
        assert "forward" not in vars(transformer)
    assert len(copied) == MODULATION_LAYERS * 2
    for found, expected in zip(images[True], images[False], strict=True):
        assert torch.equal(found, expected)
