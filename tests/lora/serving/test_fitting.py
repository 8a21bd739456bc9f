"""Worn from any layout, at any strength, a LoRA changes the weights by that strength times alpha / rank times B A."""

import pytest
import torch
from torch import nn

from lora.flux.lora_layout import linear_shapes
from lora.serving.fitting import fit_lora
from lora.serving.wardrobe import Wardrobe
from tests.lora.flux.layouts.made import KOHYA, LAYOUTS
from tests.tiny import assert_one_sentence, tiny_pipeline

EXACT = 1e-5


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def shapes(pipeline):
    return linear_shapes(pipeline.transformer)


@pytest.fixture
def wardrobe(pipeline):
    wardrobe = Wardrobe(pipeline)
    yield wardrobe
    wardrobe.take_off()


@torch.no_grad()
def answers(transformer, shapes):
    """What every linear layer says to each of its inputs alone: its weights, with all that is worn on them, as
    [out, in]. In fp64, as a small difference of large numbers is looked at."""
    return {name: responses(transformer.get_submodule(name), shape.inputs) for name, shape in shapes.items()}


def responses(layer: nn.Module, inputs: int):
    return (layer(torch.eye(inputs)) - layer(torch.zeros(1, inputs))).double().T


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layer_is_changed_by_the_strength_times_what_the_file_means(pipeline, wardrobe, shapes, name, scale):
    made = LAYOUTS[name].make(shapes)
    before = answers(pipeline.transformer, shapes)
    wardrobe.wear(made.tensors, name="a", scale=scale)
    after = answers(pipeline.transformer, shapes)
    for layer in shapes:
        expected = scale * made.changes.get(layer, torch.zeros_like(before[layer]))
        assert (after[layer] - before[layer] - expected).norm() <= EXACT * expected.norm(), layer


def test_a_lora_on_a_text_encoder_is_refused_by_the_layer(shapes):
    """Nothing would be worn there, and the picture would be another than its trainer's."""
    tensors, _ = KOHYA("lora_te1_text_model_encoder_layers_0_mlp_fc1", 8, 8, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError) as error:
        fit_lora(tensors | LAYOUTS["kohya"].tensors(shapes), shapes)
    assert_one_sentence(error.value, "the LoRA changes", "CLIP", "text_model.encoder.layers.0.mlp.fc1")


def test_a_control_lora_is_refused_by_name(shapes):
    name = "transformer.x_embedder"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 128), f"{name}.lora_B.weight": torch.ones(192, 2)}
    with pytest.raises(ValueError) as error:
        fit_lora(tensors, shapes)
    assert_one_sentence(error.value, "the LoRA was made for another model", "x_embedder", "192 x 128", "Control")


def test_a_lora_of_sd3_is_refused_by_name(shapes):
    """Its layers have the names of FLUX.1's, at another width."""
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 1536), f"{name}.lora_B.weight": torch.ones(1536, 2)}
    with pytest.raises(ValueError) as error:
        fit_lora(tensors, shapes)
    assert_one_sentence(error.value, "1536 x 1536 weights (it was made for SD3)", "this model's are 192 x 192")
