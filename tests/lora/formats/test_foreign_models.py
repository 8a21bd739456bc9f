"""A LoRA that was made for another model is refused with the name of that model, if it can be recognized."""

import pytest
import torch

from lora.formats.foreign_models import foreign_model_hint
from lora.formats.reading import convert_lora
from lora.formats.shapes import linear_shapes
from tests.lora.formats.made import LAYOUTS
from tests.tiny import assert_one_sentence, tiny_transformer

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


@pytest.mark.parametrize(("name", "width", "model"), REFUSED)
@pytest.mark.parametrize("names", [("lora_down", "lora_up"), ("lora_A", "lora_B")])
def test_the_model_is_named(name, width, model, names):
    down, up = names
    tensors = {f"{name}.{down}.weight": torch.ones(2, width), f"{name}.{up}.weight": torch.ones(8, 2)}
    with pytest.raises(ValueError) as error:
        convert_lora(tensors)
    assert_one_sentence(error.value, f"{name}.{down}.weight", f"(it was made for {model})")


@pytest.mark.parametrize("name", ["double_blocks.0.img_attn.norm.query_norm.scale", "transformer.x.attn.norm_q.weight"])
def test_norms_of_a_control_lora_are_refused(name):
    """They would replace those of the model, and remain after the LoRA is removed."""
    with pytest.raises(ValueError) as error:
        convert_lora({name: torch.zeros(16)})
    assert_one_sentence(error.value, name, "a FLUX.1 Control model")


def test_a_fused_layer_of_flux_2_is_refused():
    """Its name is the same, but its MLP is gated and so twice as wide."""
    name = "diffusion_model.single_blocks.0.linear1"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 6144), f"{name}.lora_B.weight": torch.ones(9 * 6144, 2)}
    with pytest.raises(ValueError) as error:
        convert_lora(tensors)
    assert_one_sentence(error.value, "55296 x 6144", "(it was made for FLUX.2)")


@pytest.mark.parametrize(
    ("layer", "width", "model"),
    [
        ("x_embedder", 128, "a FLUX.1 Control model, such as Depth or Canny"),
        ("x_embedder", 384, "FLUX.1 Fill"),
        ("transformer_blocks.0.attn.to_q", 1536, "SD3"),
        ("transformer_blocks.0.attn.to_q", 2432, "SD3.5 Large"),
        ("transformer_blocks.0.attn.to_q", 6144, "FLUX.2"),
    ],
)
def test_models_with_the_layer_names_of_flux_are_recognized_by_their_widths(layer, width, model):
    assert foreign_model_hint({f"{layer}.lora_A": torch.ones(2, width)}) == f" (it was made for {model})"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=[*LAYOUTS])
def test_a_lora_for_flux_is_not_taken_for_one_of_another_model(layout):
    assert foreign_model_hint(layout.tensors(linear_shapes(tiny_transformer()))) == ""
