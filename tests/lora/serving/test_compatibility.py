"""AppliedLora from any layout, at any strength, a LoRA changes the weights by that strength times alpha / rank times B A."""

import pytest
import torch

from lora.formats.reading import convert_lora
from lora.formats.shapes import linear_shapes
from lora.serving.compatibility import linear_layers, refuse_incompatible
from lora.serving.lora_merger import AppliedLora, LoraMerger
from tests.lora.formats.made import KOHYA, LAYOUTS
from tests.tiny import assert_one_sentence, tiny_pipeline

EXACT = 1e-5


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def shapes(pipeline):
    return linear_shapes(pipeline.transformer)


@pytest.fixture
def merger(pipeline):
    merger = LoraMerger(pipeline)
    yield merger
    merger.wear(())


def weights(pipeline, shapes):
    """In fp64, as a small difference of large numbers is looked at."""
    return {name: pipeline.transformer.get_submodule(name).weight.detach().double() for name in shapes}


def refusal(pipeline, tensors):
    with pytest.raises(ValueError) as error:
        refuse_incompatible(convert_lora(tensors), linear_layers(pipeline))
    return error.value


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layer_is_changed_by_the_strength_times_what_the_file_means(pipeline, merger, shapes, name, scale):
    made = LAYOUTS[name].make(shapes)
    before = weights(pipeline, shapes)
    merger.wear([AppliedLora(name, convert_lora(made.tensors), scale, name)])
    after = weights(pipeline, shapes)
    for layer in shapes:
        expected = scale * made.changes.get(layer, torch.zeros_like(before[layer]))
        assert (after[layer] - before[layer] - expected).norm() <= EXACT * expected.norm(), layer


def test_a_lora_on_a_layer_that_the_text_encoder_does_not_have_is_refused_by_the_layer(pipeline):
    tensors, _ = KOHYA("lora_te1_text_model_encoder_layers_11_mlp_fc1", 8, 8, torch.Generator().manual_seed(0))
    error = refusal(pipeline, tensors)
    assert_one_sentence(error, "was made for another model", "no place for clip.encoder.layers.11.mlp.fc1")


def test_a_control_lora_is_refused_by_name(pipeline):
    name = "transformer.x_embedder"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 128), f"{name}.lora_B.weight": torch.ones(192, 2)}
    error = refusal(pipeline, tensors)
    assert_one_sentence(error, "was made for another model", "x_embedder", "192 x 128", "Control")


def test_a_lora_of_sd3_is_refused_by_name(pipeline):
    """Its layers have the names of FLUX.1's, at another width."""
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 1536), f"{name}.lora_B.weight": torch.ones(1536, 2)}
    assert_one_sentence(
        refusal(pipeline, tensors), "1536 x 1536 weights (it was made for SD3)", "this model's are 192 x 192"
    )


def test_a_small_file_that_says_it_is_huge_is_refused_before_any_of_it_is_made(pipeline):
    """Of 400 thousand numbers, the change would have 10 to the 20."""
    name, tall, wide = "lycoris_transformer_blocks_0_attn_to_q", torch.ones(100_000, 1), torch.ones(1, 100_000)
    parts = {f"{name}.lokr_w{factor}_{half}": part for factor in (1, 2) for half, part in (("a", tall), ("b", wide))}
    assert_one_sentence(refusal(pipeline, parts), "10000000000 x 10000000000", "this model's are")
