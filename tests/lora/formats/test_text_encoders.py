"""Layers of CLIP and T5 are found by their names in every layout, and kept apart from the transformer's."""

import pytest
import torch

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.reading import convert_lora
from tests.lora.formats.made import KOHYA, PEFT, low_rank
from tests.tiny import assert_one_sentence

CLIP = "text_model.encoder.layers.3"
T5 = "encoder.block.5.layer"
OLD = low_rank("down.weight", "up.weight")
PROJECTIONS = ("lora_te1_text_projection", "text_encoder.text_projection", "clip_l.transformer.text_projection")
NAMES = [
    ("lora_te1_text_model_encoder_layers_3_self_attn_q_proj", KOHYA, "clip", f"{CLIP}.self_attn.q_proj"),
    ("lora_te1_text_model_encoder_layers_3_self_attn_out_proj", KOHYA, "clip", f"{CLIP}.self_attn.out_proj"),
    ("lora_te_text_model_encoder_layers_3_mlp_fc2", KOHYA, "clip", f"{CLIP}.mlp.fc2"),
    ("text_encoder.text_model.encoder.layers.3.self_attn.k_proj", PEFT, "clip", f"{CLIP}.self_attn.k_proj"),
    ("text_encoder.encoder.layers.3.mlp.fc1", PEFT, "clip", f"{CLIP}.mlp.fc1"),
    ("text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora", OLD, "clip", f"{CLIP}.self_attn.out_proj"),
    (
        "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.v_proj",
        KOHYA,
        "clip",
        f"{CLIP}.self_attn.v_proj",
    ),
    ("clip_l.text_model.encoder.layers.3.mlp.fc1", KOHYA, "clip", f"{CLIP}.mlp.fc1"),
    ("clip_l.transformer.text_model.encoder.layers.3.mlp.fc1", KOHYA, "clip", f"{CLIP}.mlp.fc1"),
    ("base_model.model.text_model.encoder.layers.3.mlp.fc1", PEFT, "clip", f"{CLIP}.mlp.fc1"),
    ("text_encoder.base_model.model.text_model.encoder.layers.3.mlp.fc1", PEFT, "clip", f"{CLIP}.mlp.fc1"),
    ("base_model.model.encoder.block.5.layer.0.SelfAttention.q", PEFT, "t5", f"{T5}.0.SelfAttention.q"),
    ("t5.encoder.block.5.layer.0.SelfAttention.q", KOHYA, "t5", f"{T5}.0.SelfAttention.q"),
    ("lora_te3_encoder_block_5_layer_0_SelfAttention_q", KOHYA, "t5", f"{T5}.0.SelfAttention.q"),
    ("lora_te2_encoder_block_5_layer_1_DenseReluDense_wi_0", KOHYA, "t5", f"{T5}.1.DenseReluDense.wi_0"),
    (
        "text_encoders.t5xxl.transformer.encoder.block.5.layer.1.DenseReluDense.wo",
        KOHYA,
        "t5",
        f"{T5}.1.DenseReluDense.wo",
    ),
    ("text_encoder_2.encoder.block.5.layer.0.SelfAttention.o", PEFT, "t5", f"{T5}.0.SelfAttention.o"),
]


@pytest.mark.parametrize(("name", "decomposition", "model", "layer"), NAMES)
def test_a_layer_is_found_and_its_delta_is_alpha_over_rank_times_b_a(name, decomposition, model, layer):
    tensors, expected = decomposition(name, 12, 8, torch.Generator().manual_seed(0))
    lora = convert_lora(tensors, FLUX1)
    assert not lora.transformer
    ((found, delta),) = getattr(lora, model).items()
    assert found == layer
    assert torch.allclose(delta.matrix(torch.device("cpu")).double(), expected(), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te1_text_model_encoder_layers_3_self_attn_x_proj",
        "lora_te1_encoder_block_5_layer_0_SelfAttention_q",
        "text_encoder.text_model.embeddings.token_embedding",
        "text_encoder_2.encoder.final_layer_norm",
    ],
)
def test_an_unknown_layer_is_refused_by_its_name(name):
    tensors, _ = PEFT(name, 12, 8, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX1)
    assert_one_sentence(error.value, name)


def test_a_layer_of_zeros_is_ignored():
    """ComfyUI saves such layers for a text encoder that was not trained."""
    clip, _ = KOHYA(NAMES[0][0], 12, 8, torch.Generator().manual_seed(0))
    t5, _ = KOHYA(NAMES[7][0], 12, 8, torch.Generator().manual_seed(0))
    lora = convert_lora(clip | {name: torch.zeros_like(t) if "up" in name else t for name, t in t5.items()}, FLUX1)
    assert not lora.t5
    assert len(lora.clip) == 1


@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_projection_of_clip_is_left_out_as_flux_does_not_use_it(name):
    layer, _ = KOHYA(NAMES[0][0], 12, 8, torch.Generator().manual_seed(0))
    projection, _ = KOHYA(name, 12, 8, torch.Generator().manual_seed(0))
    lora = convert_lora(layer | projection, FLUX1)
    assert len(lora.clip) == 1
    with pytest.raises(ValueError, match="changes nothing"):
        convert_lora(projection, FLUX1)


@pytest.mark.parametrize(
    ("name", "model", "norm"),
    [
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.3.layer_norm1", "clip", f"{CLIP}.layer_norm1"),
        ("lora_te1_text_model_encoder_layers_3_layer_norm2", "clip", f"{CLIP}.layer_norm2"),
        ("clip_l.text_model.final_layer_norm", "clip", "text_model.final_layer_norm"),
        ("text_encoders.t5xxl.transformer.encoder.block.5.layer.1.layer_norm", "t5", f"{T5}.1.layer_norm"),
        ("lora_te3_encoder_final_layer_norm", "t5", "encoder.final_layer_norm"),
    ],
)
def test_a_norm_is_found(name, model, norm):
    (found, delta), *_ = convert_lora({f"{name}.diff": torch.tensor([1.0, -2.0])}, FLUX1).vectors.items()
    assert (found.model, found.layer, found.parameter) == (model, norm, "weight")
    assert delta.tolist() == [1, -2]


@pytest.mark.parametrize("name", [NAMES[0][0], "text_encoders.qwen3_4b.transformer.model.layers.0.mlp.up_proj"])
def test_a_layer_of_a_text_encoder_is_refused_for_a_family_that_has_none(name):
    tensors, _ = KOHYA(name, 12, 8, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX2)
    assert_one_sentence(error.value, name, "not match any layer of FLUX.2 [klein]")
