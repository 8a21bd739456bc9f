"""A LoRA of any layout adds scale times alpha / rank times B A to the weights; an incompatible LoRA is refused."""

import pytest
import torch

from lora.families.weightless import weightless_pipeline
from lora.formats.reading import convert_lora
from lora.formats.shapes import linear_shapes
from lora.serving.compatibility import Changeable, refuse_incompatible
from lora.serving.lora_merger import AppliedLora, LoraMerger
from tests.families import FIRST, KLEIN, TINY_BASES
from tests.lora.formats.made import FLUX2_LAYOUTS, KOHYA, LAYOUTS
from tests.tiny import assert_one_sentence, random_lora

EXACT = 1e-5
LAYOUTS_OF = {"FLUX.1": LAYOUTS, "FLUX.2 [klein]": FLUX2_LAYOUTS}
OF_EACH = [
    *((FIRST, name, scale) for name in LAYOUTS for scale in (-1.0, 0.0, 0.5, 1.0, 2.0)),
    *((KLEIN, name, -0.5) for name in FLUX2_LAYOUTS),
]
flux1 = pytest.mark.parametrize("tiny", [FIRST], indirect=True)


@pytest.fixture(scope="module")
def shapes(pipeline):
    return linear_shapes(pipeline.transformer)


@pytest.fixture
def merger(pipeline):
    merger = LoraMerger(pipeline)
    yield merger
    merger.apply(())


def weights(pipeline, shapes):
    """Return the weights in fp64, because the tests compare small differences of large numbers."""
    return {name: pipeline.transformer.get_submodule(name).weight.detach().double() for name in shapes}


def refusal(pipeline, tensors):
    changeable = Changeable.of(pipeline)
    with pytest.raises(ValueError) as error:
        refuse_incompatible(convert_lora(tensors, changeable.names), changeable)
    return error.value


@pytest.mark.parametrize(("tiny", "name", "scale"), OF_EACH, indirect=["tiny"])
def test_every_weight_changes_by_the_scale_times_the_delta_of_the_file(tiny, pipeline, merger, shapes, name, scale):
    made = LAYOUTS_OF[tiny.family.name][name].make(shapes)
    before = weights(pipeline, shapes)
    merger.apply([AppliedLora(name, convert_lora(made.tensors, tiny.family.layer_names), scale, name)])
    after = weights(pipeline, shapes)
    for layer in shapes:
        expected = scale * made.deltas.get(layer, torch.zeros_like(before[layer]))
        assert (after[layer] - before[layer] - expected).norm() <= EXACT * expected.norm(), layer


@flux1
def test_a_lora_for_a_layer_that_the_text_encoder_lacks_is_refused_with_the_layers_name(pipeline):
    tensors, _ = KOHYA("lora_te1_text_model_encoder_layers_11_mlp_fc1", 8, 8, torch.Generator().manual_seed(0))
    error = refusal(pipeline, tensors)
    assert_one_sentence(error, "is incompatible with this model", "no layer clip.encoder.layers.11.mlp.fc1")


@flux1
def test_a_lora_for_a_control_model_is_refused_with_the_models_name(pipeline):
    name = "transformer.x_embedder"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 128), f"{name}.lora_B.weight": torch.ones(192, 2)}
    error = refusal(pipeline, tensors)
    assert_one_sentence(error, "is incompatible with this model", "x_embedder", "192 x 128", "Control")


@flux1
def test_a_lora_for_sd3_is_refused_with_the_models_name(pipeline):
    """Its layers have the same names as those of FLUX.1, and another width."""
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 1536), f"{name}.lora_B.weight": torch.ones(1536, 2)}
    assert_one_sentence(
        refusal(pipeline, tensors), "1536 x 1536 weights (it was made for SD3)", "this model's are 192 x 192"
    )


def test_a_small_file_with_a_huge_delta_is_refused_before_the_delta_is_materialized(pipeline):
    """The file has 400 thousand numbers; its delta would have 10 to the 20."""
    name, tall, wide = "lycoris_transformer_blocks_0_attn_to_q", torch.ones(100_000, 1), torch.ones(1, 100_000)
    tensors = {f"{name}.lokr_w{factor}_{half}": each for factor in (1, 2) for half, each in (("a", tall), ("b", wide))}
    assert_one_sentence(refusal(pipeline, tensors), "10000000000 x 10000000000", "this model's are")


def test_a_lora_for_the_other_family_is_refused_with_that_familys_name(tiny, pipeline):
    (other,) = (each for each in TINY_BASES if each is not tiny)
    tensors = random_lora(weightless_pipeline(other.folder).transformer.to_empty(device="cpu"))
    assert_one_sentence(refusal(pipeline, tensors), f"it was made for {other.family.layer_names.series}")
