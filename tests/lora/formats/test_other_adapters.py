"""What is no LoRA is refused under its own name, and that of its model."""

import pytest
import torch

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from tests.tiny import assert_one_sentence

KOHYA = "lora_unet_double_blocks_0_img_attn_qkv"
KEYS = [
    (f"{KOHYA}.oft_blocks", "an OFT"),
    (f"{KOHYA}.oft_diag", "an OFT"),
    ("oft_unet_double_blocks_0_img_attn_qkv.oft_blocks", "an OFT"),
    ("base_model.model.transformer_blocks.0.attn.to_q.oft_R.weight", "an OFT"),
    ("base_model.model.transformer_blocks.0.attn.to_q.boft_R", "an OFT"),
    (f"{KOHYA}.on_input", "an (IA)^3"),
    ("base_model.model.transformer_blocks.0.attn.to_q.ia3_l", "an (IA)^3"),
    ("base_model.model.transformer_blocks.0.attn.to_q.vera_lambda_b", "a VeRA"),
    ("emb_params", "an embedding"),
    ("string_to_param.*", "an embedding"),
    ("clip_l", "an embedding"),
    ("t5xxl", "an embedding"),
    ("bundle_emb.ohwx.clip_l_out", "an embedding"),
    ("text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.lora_up.weight", "an embedding"),
    ("base_model.model.text_model.embeddings.token_embedding.lora_embedding_A", "an embedding"),
    ("diffusion_model.img_in.set_weight", "whole weights"),
    ("diffusion_model.img_in.reshape_weight", "a LoRA that changes the size of a layer"),
    ("transformer_blocks.0.attn.to_q.qweight", "quantized weights"),
    ("diffusion_model.double_blocks.0.img_mod.lin.scale_weight", "quantized weights"),
    ("double_blocks.0.img_mod.lin.weight", "a whole weight"),
    ("controlnet_x_embedder.weight", "a ControlNet"),
]


@pytest.mark.parametrize(("key", "kind"), KEYS)
def test_the_kind_is_named(key, kind):
    with pytest.raises(ValueError) as error:
        convert_lora({key: torch.ones(4, 4)}, FLUX1)
    assert_one_sentence(error.value, key, f"; it is {kind}", "expected a LoRA")


def test_the_model_is_named_too():
    with pytest.raises(ValueError) as error:
        convert_lora({"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.oft_blocks": torch.ones(4, 4)}, FLUX1)
    assert_one_sentence(error.value, "(it was made for Stable Diffusion); it is an OFT")
