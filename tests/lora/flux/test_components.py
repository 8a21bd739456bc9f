"""A base is refused of which a part does not fit its config; what published files hold besides is not."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.flux.components import load_components, load_tokenizers
from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.loading import load_pipeline
from tests.tiny import TINY_FLUX, assert_one_sentence, linked_base, replace

WEIGHTS = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
NOT_A_NUMBER = float("nan")


@pytest.fixture
def base(tmp_path):
    return linked_base(tmp_path / "base")


def change_weights(base, part, change):
    file = base / part / WEIGHTS[part]
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file, **changes):
    replace(file, json.dumps(json.loads(file.read_text()) | changes).encode())


def refusal(base, part):
    with pytest.raises(ValueError) as error:
        if part == "transformer":
            load_transformer(base, WeightPlacement("fp32", False, torch.device("cpu")))
        else:
            load_components(base, (part,), dtype=torch.float32)
    assert_one_sentence(error.value, f"{base / part}", "expected")
    assert str(error.value).startswith(str(base / part))
    return str(error.value)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("text_encoder", "encoder.layers.0.layer_norm1.weight"),
        ("text_encoder_2", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("transformer", "norm_out.linear.weight"),
        ("vae", "decoder.conv_norm_out.weight"),
    ],
)
def test_a_part_that_lacks_a_tensor_is_refused_by_its_name(base, part, name):
    change_weights(base, part, lambda tensors: {key: tensors[key] for key in tensors if key != name})
    assert f"has no tensor {name}: expected 1 more" in refusal(base, part)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder_2", "encoder.final_layer_norm.weight"),
        ("transformer", "norm_out.linear.weight"),
        ("vae", "decoder.conv_norm_out.weight"),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_its_name(base, part, name):
    change_weights(base, part, lambda tensors: {**tensors, name: torch.ones(3)})
    assert re.search(rf"{re.escape(name)} .*3", refusal(base, part))


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("text_encoder", {"num_hidden_layers": 1}),
        ("text_encoder_2", {"num_layers": 1}),
        ("transformer", {"num_layers": 1}),
        ("transformer", {"num_layers": 3}),
        ("transformer", {"num_layers": "two"}),
        ("transformer", {"guidance_embeds": False}),
        ("vae", {"layers_per_block": 2}),
        ("vae", {"scaling_factor": None}),
        ("vae", {"shift_factor": "x"}),
    ],
)
def test_a_config_that_its_weights_do_not_fit_is_refused(base, part, setting):
    change_json(base / part / "config.json", **setting)
    refusal(base, part)


@pytest.mark.parametrize("part", WEIGHTS)
def test_an_empty_config_is_refused(base, part):
    replace(base / part / "config.json", b"{}")
    refusal(base, part)


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_no_numbers_are_refused(base, part):
    def spoil(tensors):
        name = max(tensors, key=lambda name: tensors[name].numel())
        return {**tensors, name: torch.full_like(tensors[name], NOT_A_NUMBER)}

    change_weights(base, part, spoil)
    assert "expected weights" in refusal(base, part)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_vocabulary_that_is_none_is_refused_by_its_folder(base, part):
    replace(base / part / "tokenizer.json", b"{}")
    with pytest.raises(ValueError) as error:
        load_tokenizers(base)
    assert_one_sentence(error.value, f"{base / part} cannot be loaded", "expected")


def test_an_index_that_names_no_part_of_flux_is_refused(base):
    change_json(base / "model_index.json", scheduler=["os", "system"])
    with pytest.raises(ValueError) as error:
        load_pipeline(base)
    assert_one_sentence(error.value, f"{base} cannot be loaded", "expected")


def test_a_config_that_no_transformer_can_be_made_by_is_not_trained(base):
    change_json(base / "transformer" / "config.json", num_layers="two")
    with pytest.raises(ValueError) as error:
        load_transformer(base, WeightPlacement("fp32", False, torch.device("cpu")))
    assert_one_sentence(error.value, f"{base / 'transformer'} cannot be loaded", "expected")


def test_text_encoders_in_the_form_of_the_published_files_are_whole(base):
    """CLIP with a prefix, with the positions that older tools saved, and with its other half; T5 with its embedding
    by both names, by either, and with a decoder."""

    def published_clip(tensors):
        more = {"text_projection.weight": torch.ones(2, 2), "vision_model.encoder.layers.0.mlp.fc1.bias": torch.ones(2)}
        prefixed = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        return prefixed | more | {"text_model.embeddings.position_ids": torch.arange(77)[None]}

    def twice(tensors):
        again = {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}
        return tensors | again | {"decoder.block.0.layer.0.layer_norm.weight": torch.ones(2)}

    change_weights(base, "text_encoder", published_clip)
    change_weights(base, "text_encoder_2", twice)
    assert_as_made(load_components(base, ("text_encoder", "text_encoder_2"), dtype=torch.float32))
    change_weights(base, "text_encoder_2", lambda tensors: {n: t for n, t in tensors.items() if n != "shared.weight"})
    assert_as_made(load_components(base, ("text_encoder_2",), dtype=torch.float32))


def assert_as_made(parts):
    made = load_components(TINY_FLUX, tuple(parts), dtype=torch.float32)
    for name, part in parts.items():
        for key, tensor in made[name].state_dict().items():
            assert torch.equal(part.state_dict()[key], tensor), key
