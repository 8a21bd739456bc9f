"""The counted sizes are those of the real class, for every configuration; nothing is loaded."""

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from torch import nn

from lora.flux2.dimensions import dimensions_of
from tests.random_klein import KLEIN_4B_CONFIG, KLEIN_9B_CONFIG, random_klein_transformer

CONFIGS = {
    "4B": KLEIN_4B_CONFIG,
    "9B": KLEIN_9B_CONFIG,
    "tiny": dict(random_klein_transformer().config),
    "guidance, patches, uneven feed-forward": KLEIN_4B_CONFIG
    | {"guidance_embeds": True, "patch_size": 2, "out_channels": 32, "attention_head_dim": 20, "mlp_ratio": 2.27},
}
AXES = {"axes_dims_rope": (4, 4, 4, 4)}


def linears(block):
    return [each for each in block.modules() if isinstance(each, nn.Linear)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_layer_and_every_parameter_of_the_real_class_is_counted(config):
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel.from_config(AXES | config)
    shape = dimensions_of(transformer.config)
    for kind, blocks in (
        (shape.double, transformer.transformer_blocks),
        (shape.single, transformer.single_transformer_blocks),
    ):
        layers = linears(blocks[0])
        assert kind.count == len(blocks)
        assert kind.layers == len(layers)
        assert kind.weights == sum(each.weight.numel() for each in layers)
        assert kind.rows == sum(each.out_features for each in layers)
        assert kind.modulation_layers == kind.modulation_weights == kind.modulation_rows == 0
    inside = [
        each for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks) for each in blocks
    ]
    in_blocks = sum(each.numel() for block in inside for each in block.parameters())
    assert shape.outer_parameters == sum(each.numel() for each in transformer.parameters()) - in_blocks
    every = [layer for block in inside for layer in linears(block)]
    assert not shape.has_biases
    assert all(layer.bias is None for layer in every)
    assert shape.largest == max(layer.weight.numel() for layer in every)
    assert shape.width * (shape.widest - 1) < max(layer.out_features for layer in every) <= shape.width * shape.widest


@pytest.mark.parametrize(("config", "parameters"), [(KLEIN_4B_CONFIG, 3.88e9), (KLEIN_9B_CONFIG, 9.08e9)])
def test_klein_has_as_many_parameters_as_published(config, parameters):
    """The sizes of the transformers' files on the Hub, in bf16, are twice as many bytes."""
    shape = dimensions_of(config)
    assert shape.block_weights + shape.outer_parameters == pytest.approx(parameters, rel=2e-3)
