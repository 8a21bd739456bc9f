"""A base is refused if a component does not match its config, but not for additional tensors of published files."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.base.components import load_components, load_tokenizers
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.loading import load_pipeline
from lora.flux.components import COMPONENTS
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


def change_weights(base, component, change):
    file = base / component / WEIGHTS[component]
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file, **changes):
    replace(file, json.dumps(json.loads(file.read_text()) | changes).encode())


def refusal(base, component):
    with pytest.raises(ValueError) as error:
        if component == "transformer":
            load_transformer(base, WeightPlacement("fp32", False, torch.device("cpu")))
        else:
            load_components(base, (component,), COMPONENTS, dtype=torch.float32)
    assert_one_sentence(error.value, f"{base / component}", "expected")
    assert str(error.value).startswith(str(base / component))
    return str(error.value)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("text_encoder", "encoder.layers.0.layer_norm1.weight"),
        ("text_encoder_2", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("transformer", "norm_out.linear.weight"),
        ("vae", "decoder.conv_norm_out.weight"),
    ],
)
def test_a_component_that_lacks_a_tensor_is_refused_by_its_name(base, component, name):
    change_weights(base, component, lambda tensors: {key: tensors[key] for key in tensors if key != name})
    assert f"has no tensor {name}: expected 1 more" in refusal(base, component)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder_2", "encoder.final_layer_norm.weight"),
        ("transformer", "norm_out.linear.weight"),
        ("vae", "decoder.conv_norm_out.weight"),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_its_name(base, component, name):
    change_weights(base, component, lambda tensors: {**tensors, name: torch.ones(3)})
    assert re.search(rf"{re.escape(name)} .*3", refusal(base, component))


@pytest.mark.parametrize(
    ("component", "setting"),
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
def test_a_config_that_does_not_match_its_weights_is_refused(base, component, setting):
    change_json(base / component / "config.json", **setting)
    refusal(base, component)


@pytest.mark.parametrize("component", WEIGHTS)
def test_an_empty_config_is_refused(base, component):
    replace(base / component / "config.json", b"{}")
    refusal(base, component)


@pytest.mark.parametrize("component", WEIGHTS)
def test_weights_that_are_not_numbers_are_refused(base, component):
    def spoil(tensors):
        name = max(tensors, key=lambda name: tensors[name].numel())
        return {**tensors, name: torch.full_like(tensors[name], NOT_A_NUMBER)}

    change_weights(base, component, spoil)
    assert "expected finite weights" in refusal(base, component)


@pytest.mark.parametrize("component", ["tokenizer", "tokenizer_2"])
def test_an_invalid_vocabulary_is_refused_by_its_folder(base, component):
    replace(base / component / "tokenizer.json", b"{}")
    with pytest.raises(ValueError) as error:
        load_tokenizers(base, COMPONENTS)
    assert_one_sentence(error.value, f"{base / component} cannot be loaded", "expected")


def test_an_index_that_names_another_class_is_refused(base):
    change_json(base / "model_index.json", scheduler=["os", "system"])
    with pytest.raises(ValueError) as error:
        load_pipeline(base)
    assert_one_sentence(error.value, f"{base} cannot be loaded", "expected")


def test_a_transformer_with_an_invalid_config_is_refused(base):
    change_json(base / "transformer" / "config.json", num_layers="two")
    with pytest.raises(ValueError) as error:
        load_transformer(base, WeightPlacement("fp32", False, torch.device("cpu")))
    assert_one_sentence(error.value, f"{base / 'transformer'} cannot be loaded", "expected")


def test_text_encoders_in_the_layout_of_the_published_files_are_accepted(base):
    """CLIP with a prefix, the positions that older tools saved, and its image encoder; T5 with its embedding under both
    names or either, and with a decoder."""

    def published_clip(tensors):
        additional = {
            "text_projection.weight": torch.ones(2, 2),
            "vision_model.encoder.layers.0.mlp.fc1.bias": torch.ones(2),
        }
        prefixed = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        return prefixed | additional | {"text_model.embeddings.position_ids": torch.arange(77)[None]}

    def with_both_names(tensors):
        copies = {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}
        return tensors | copies | {"decoder.block.0.layer.0.layer_norm.weight": torch.ones(2)}

    change_weights(base, "text_encoder", published_clip)
    change_weights(base, "text_encoder_2", with_both_names)
    assert_unchanged(load_components(base, ("text_encoder", "text_encoder_2"), COMPONENTS, dtype=torch.float32))
    change_weights(base, "text_encoder_2", lambda tensors: {n: t for n, t in tensors.items() if n != "shared.weight"})
    assert_unchanged(load_components(base, ("text_encoder_2",), COMPONENTS, dtype=torch.float32))


def assert_unchanged(components):
    original = load_components(TINY_FLUX, tuple(components), COMPONENTS, dtype=torch.float32)
    for name, component in components.items():
        for key, tensor in original[name].state_dict().items():
            assert torch.equal(component.state_dict()[key], tensor), key
