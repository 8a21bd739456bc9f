"""A LoRA that was made for another model is refused with the name of that model, if it can be recognized."""

import pytest
import torch

from lora.formats.foreign_models import foreign_model_hint, incompatible_model_hint
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.layer_names.mapping import find_layer
from lora.formats.reading import convert_lora
from lora.formats.shapes import Shape
from tests.lora.formats.families import CASES, flux1_shapes, flux2_shapes, published_shapes
from tests.lora.formats.made import LAYOUTS
from tests.tiny import assert_one_sentence

# A layer of a LoRA for each model, and the width of its input.
REFUSED = [
    ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, "Stable Diffusion 1.5"),
    ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 2048, "SDXL"),
    ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", 640, "Stable Diffusion"),
    ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, "SDXL"),
    ("unet.up_blocks.0.attentions.0.proj_in", 1280, "Stable Diffusion"),
    ("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, "SD3"),
    ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 6144, "FLUX.2"),
    ("diffusion_model.double_stream_modulation_img.lin", 6144, "FLUX.2"),
    ("diffusion_model.blocks.0.self_attn.q", 5120, "Wan"),
    ("lora_unet_blocks_0_cross_attn_k", 5120, "Wan"),
    ("lora_unet_double_blocks_0_img_mlp_fc1", 3072, "HunyuanVideo"),
    ("transformer.transformer_blocks.0.img_mlp.net.0.proj", 3072, "Qwen-Image"),
    ("diffusion_model.layers.0.attention.to_q", 3840, "Lumina 2 or Z-Image"),
    ("diffusion_model.transformer_blocks.0.attn1.to_q", 2048, "LTX-Video or PixArt"),
    ("base_model.model.model.layers.0.self_attn.q_proj", 4096, "a language model"),
]

BOTH = pytest.mark.parametrize("names", [FLUX1, FLUX2], ids=lambda names: names.name)


@pytest.mark.parametrize(("name", "width", "model"), REFUSED)
@pytest.mark.parametrize("names", [("lora_down", "lora_up"), ("lora_A", "lora_B")])
def test_the_model_is_named(name, width, model, names):
    down, up = names
    tensors = {f"{name}.{down}.weight": torch.ones(2, width), f"{name}.{up}.weight": torch.ones(8, 2)}
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX1)
    assert_one_sentence(error.value, f"{name}.{down}.weight", f"(it was made for {model})")


@pytest.mark.parametrize("name", ["double_blocks.0.img_attn.norm.query_norm.scale", "transformer.x.attn.norm_q.weight"])
def test_norms_of_a_control_lora_are_refused(name):
    """They would replace those of the model, and remain after the LoRA is removed."""
    with pytest.raises(ValueError) as error:
        convert_lora({name: torch.zeros(16)}, FLUX1)
    assert_one_sentence(error.value, name, "a FLUX.1 Control model")


NORMS = ("transformer_blocks.0.attn.norm_q.weight", "double_blocks.0.img_attn.norm.query_norm.scale")
ORIGINAL = {  # the first blocks of klein 4B in the names of its publisher
    "double_blocks.0.img_attn.qkv": Shape(3072, 3 * 3072),
    "double_blocks.0.img_mlp.0": Shape(3072, 6 * 3072),
    "single_blocks.0.linear1": Shape(3072, 9 * 3072),
}


def checkpoint(shapes):
    """The whole weights of a model, with a norm that a Control LoRA has too."""
    weights = {
        f"{layer}.weight": torch.empty(each.outputs, each.inputs, device="meta") for layer, each in shapes.items()
    }
    return weights | {name: torch.ones(128) for name in NORMS}


@pytest.mark.parametrize("own", [FLUX1, FLUX2], ids=["on FLUX.1", "on FLUX.2"])
@pytest.mark.parametrize(
    ("model", "shapes"),
    [(name, published_shapes(name)) for name in ("FLUX.1", "FLUX.2 [klein] 4B", "FLUX.2 [klein] 9B")]
    + [("FLUX.2 [klein] 4B", {f"model.diffusion_model.{layer}": shape for layer, shape in ORIGINAL.items()})],
)
def test_the_checkpoint_of_a_whole_model_is_told_from_a_control_lora(model, shapes, own):
    with pytest.raises(ValueError) as error:
        convert_lora(checkpoint(shapes), own)
    assert_one_sentence(error.value, "it is a whole weight of a model: expected a LoRA")
    is_own = model.startswith("FLUX.1") is (own is FLUX1)
    assert ("was made for" in str(error.value)) is not is_own
    assert is_own or f"(it was made for {model})" in str(error.value)


def test_the_checkpoint_of_another_model_with_such_norms_is_named():
    layer = "transformer_blocks.0.img_mlp.net.0.proj"
    hint = foreign_model_hint(checkpoint({layer: Shape(3072, 12288)}), FLUX2)
    assert hint == " (it was made for Qwen-Image)"


# The same for a LoRA on klein.
REFUSED_FOR_KLEIN = [
    *(refused for refused in REFUSED if refused[-1] != "FLUX.2"),
    ("transformer.single_transformer_blocks.0.proj_mlp", 3072, "FLUX.1"),
    ("lora_unet_double_blocks_0_img_mod_lin", 3072, "FLUX.1"),
    ("diffusion_model.vector_in.in_layer", 768, "FLUX.1"),
    ("double_blocks.0.processor.qkv_lora1", 3072, "FLUX.1"),
    ("transformer.single_transformer_blocks.39.attn.to_q", 3072, "HunyuanVideo"),
]


@pytest.mark.parametrize(("name", "width", "model"), REFUSED_FOR_KLEIN)
def test_the_model_of_a_lora_for_klein_is_named(name, width, model):
    tensors = {f"{name}.lora_down.weight": torch.ones(2, width), f"{name}.lora_up.weight": torch.ones(8, 2)}
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX2)
    assert_one_sentence(error.value, f"{name}.lora_down.weight", f"(it was made for {model})")


def test_a_fused_layer_of_flux_2_is_refused():
    """Its name is the same, but its MLP is gated and so twice as wide."""
    name = "diffusion_model.single_blocks.0.linear1"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 6144), f"{name}.lora_B.weight": torch.ones(9 * 6144, 2)}
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX1)
    assert_one_sentence(error.value, "55296 x 6144", "(it was made for FLUX.2-dev)")


@pytest.mark.parametrize(
    ("layer", "width", "model"),
    [
        ("x_embedder", 128, "a FLUX.1 Control model, such as Depth or Canny"),
        ("x_embedder", 384, "FLUX.1 Fill"),
        ("transformer_blocks.0.attn.to_q", 1536, "SD3"),
        ("transformer_blocks.0.attn.to_q", 2432, "SD3.5 Large"),
        ("transformer_blocks.0.attn.to_q", 4096, "FLUX.2 [klein] 9B"),
        ("transformer_blocks.0.attn.to_q", 6144, "FLUX.2-dev"),
    ],
)
def test_models_with_the_layer_names_of_flux_are_recognized_by_their_widths(layer, width, model):
    assert foreign_model_hint({f"{layer}.lora_A": torch.ones(2, width)}, FLUX1) == f" (it was made for {model})"


@pytest.mark.parametrize("case", CASES.values(), ids=[*CASES])
def test_a_lora_for_flux_is_not_taken_for_one_of_another_model(case):
    assert foreign_model_hint(case.layout.tensors(case.shapes), case.names) == ""


SIZES = ("FLUX.2 [klein] 4B", "FLUX.2 [klein] 9B", "FLUX.2-dev")
TRANSLATED = {"kohya": LAYOUTS["kohya"], "BFL by ComfyUI": LAYOUTS["BFL by ComfyUI"]}
ALL = {"diffusers": LAYOUTS["diffusers"], **TRANSLATED, "LoKr by LyCORIS": LAYOUTS["LoKr by LyCORIS"]}


def few(model, layout, only=r"_blocks[._]0\b"):
    """A LoRA on the first blocks of a published model."""
    return layout.tensors(published_shapes(model), only=only)


def shapes_of(tensors, names):
    return {name: delta.shape for name, delta in convert_lora(tensors, names).transformer.items()}


@pytest.mark.parametrize("layout", ALL.values(), ids=[*ALL])
@pytest.mark.parametrize(("model", "own"), [("FLUX.1", FLUX2), *((size, FLUX1) for size in SIZES)])
def test_a_lora_for_the_other_family_is_refused_by_the_name_of_its_model(layout, model, own):
    """FLUX.1 and FLUX.2 [klein] 4B are equally wide."""
    with pytest.raises(ValueError) as error:
        convert_lora(few(model, layout), own)
    assert_one_sentence(error.value, own.name, f"(it was made for {model})")


@pytest.mark.parametrize("layout", TRANSLATED.values(), ids=[*TRANSLATED])
@pytest.mark.parametrize(("only", "model", "own"), [("linear", "FLUX.1", FLUX2), ("mlp", SIZES[0], FLUX1)])
def test_layers_whose_names_both_families_have_are_told_apart_by_their_heights(layout, only, model, own):
    """They can be converted, and are refused when they are compared with a model."""
    shapes = shapes_of(few(model, layout, rf"_blocks[._]0[._].*{only}"), own)
    assert incompatible_model_hint(shapes, own) == f" (it was made for {model})"


@pytest.mark.parametrize(("names", "model"), [(FLUX1, "FLUX.1"), *((FLUX2, size) for size in SIZES)])
def test_a_lora_of_another_size_is_recognized_by_its_width(names, model):
    shapes = shapes_of(few(model, LAYOUTS["diffusers"]), names)
    assert incompatible_model_hint(shapes, names) == f" (it was made for {model})"


@pytest.mark.parametrize(("block", "hint"), [(4, "FLUX.2 [klein] 4B"), (18, "FLUX.1")])
def test_a_lora_on_more_blocks_than_klein_has_is_for_flux_1(block, hint):
    """The attention of double blocks has the same names and shapes in both; klein 4B has 5, FLUX.1 has 19."""
    shapes = {f"transformer_blocks.{number}.attn.to_q": Shape(3072, 3072) for number in (0, block)}
    assert incompatible_model_hint(shapes, FLUX2) == f" (it was made for {hint})"


@pytest.mark.parametrize(("text", "hint"), [(7680, "FLUX.2 [klein] 4B"), (4096, "FLUX.1")])
def test_the_width_of_the_texts_tells_models_of_one_width_apart(text, hint):
    shapes = {"transformer_blocks.0.attn.to_q": Shape(3072, 3072), "context_embedder": Shape(text, 3072)}
    assert incompatible_model_hint(shapes, FLUX2) == f" (it was made for {hint})"


@BOTH
def test_layers_that_both_families_have_are_not_taken_for_those_of_the_other(names):
    """Neither if something else in the file is unknown, nor if the model has an unknown size."""
    name = "transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 3072), f"{name}.lora_B.weight": torch.ones(3072, 2)}
    assert foreign_model_hint(tensors | {"from.elsewhere": torch.ones(2)}, names) == ""
    assert incompatible_model_hint({name: Shape(32, 32)}, names) == ""


@pytest.mark.parametrize("layout", ALL.values(), ids=[*ALL])
@pytest.mark.parametrize(
    ("shapes", "own", "series"), [(flux1_shapes, FLUX2, "FLUX.1"), (flux2_shapes, FLUX1, "FLUX.2")]
)
def test_a_lora_for_the_other_family_in_an_unknown_size_is_refused_by_the_name_of_the_family(
    layout, shapes, own, series
):
    with pytest.raises(ValueError) as error:
        convert_lora(layout.tensors(shapes(), only="_blocks"), own)
    assert_one_sentence(error.value, f"(it was made for {series})")


@pytest.mark.parametrize(("names", "shapes"), [(FLUX1, flux1_shapes), (FLUX2, flux2_shapes)])
def test_the_ratios_of_layers_are_those_of_diffusers(names, shapes):
    width = shapes()["transformer_blocks.0.attn.to_q"].inputs
    for name, shape in shapes().items():
        if layer := names.block_layer(name):
            assert shape == Shape(layer.ratio.inputs * width, layer.ratio.outputs * width), name
        else:
            assert "_blocks." not in name


@pytest.mark.parametrize(("names", "shapes"), [(FLUX1, flux1_shapes), (FLUX2, flux2_shapes)])
def test_the_original_name_of_a_layer_is_that_layer(names, shapes):
    for name in shapes():
        assert find_layer(names.original_name(name), names).layers == (name,)
