"""The metadata of a LoRA file has the keys that other programs read, and nothing private."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import save

from lora.flux.family import FILE_IDENTITY
from lora.formats.kohya import kohya_tensors
from lora.formats.layer_names.flux1 import FLUX1
from lora.training.result.metadata import lora_metadata
from tests.tiny import LAYERS, random_lora, tiny_transformer

SETTINGS = {
    "trigger_word": "TOK",
    "steps": 1000,
    "learning_rate": 4e-4,
    "optimizer": "adamw8bit",
    "lr_scheduler": "constant",
    "lora_rank": 4,
    "resolutions": (512, 1024),
    "caption_dropout_rate": 0.05,
    "seed": 42,
    "images": 3,
    "base_model": "dev",
    "lora_type": "subject",
}
CAPTIONS = ("a photo of TOK, on grass", "a photo of TOK, on snow, on grass", "a drawing")


@pytest.fixture(scope="module")
def tensors():
    return random_lora(tiny_transformer())


def metadata(tensors, *, captions=CAPTIONS, layout="diffusers", **changes):
    return lora_metadata(SETTINGS | changes, FILE_IDENTITY, captions=captions, tensors=tensors, layout=layout)


def tags(found):
    return json.loads(found["ss_tag_frequency"])["img"]


def sd_scripts_hashes(tensors, found):
    """The hashes as sd-scripts defines them: train_util.precalculate_safetensors_hashes."""
    content = save(tensors, metadata={name: value for name, value in found.items() if name.startswith("ss_")})
    start = 8 + int.from_bytes(content[:8], "little")
    legacy = hashlib.sha256(content[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    return hashlib.sha256(content[start:]).hexdigest(), legacy


def test_every_value_is_a_string(tensors):
    """safetensors accepts only strings."""
    assert all(isinstance(value, str) for value in metadata(tensors).values())
    assert save(tensors, metadata=metadata(tensors))


def test_the_file_is_marked_as_a_lora_for_flux(tensors):
    """T6: the files of ostris/flux-dev-lora-trainer say sd_1.5."""
    found = metadata(tensors)
    assert found["ss_base_model_version"] == "flux1"
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "flux-1-dev/lora"
    assert found["format"] == "pt"


def test_the_settings_of_the_training_are_in_the_metadata(tensors):
    found = metadata(tensors)
    expected = {
        "ss_network_dim": "4",
        "ss_network_alpha": "4",
        "ss_learning_rate": "0.0004",
        "ss_optimizer": "adamw8bit",
        "ss_lr_scheduler": "constant",
        "ss_max_train_steps": "1000",
        "ss_num_train_images": "3",
        "ss_seed": "42",
        "ss_resolution": "[512, 1024]",
        "ss_caption_dropout_rate": "0.05",
        "ss_output_name": "TOK",
        "modelspec.resolution": "1024x1024",
        "modelspec.title": "TOK LoRA",
        "modelspec.trigger_phrase": "TOK",
        "modelspec.license": "flux-1-dev-non-commercial-license",
        "modelspec.tags": "flux, lora, subject",
    }
    assert {name: found[name] for name in expected} == expected
    assert json.loads(found["ss_network_args"]) == {"layers": LAYERS}
    assert json.loads(found["trainer_config"]) == SETTINGS | {"resolutions": [512, 1024]}


def test_only_the_kohya_layout_names_the_network_module_of_kohya(tensors):
    assert "ss_network_module" not in metadata(tensors)
    found = metadata(kohya_tensors(tensors, FLUX1), layout="kohya")
    assert found["ss_network_module"] == "networks.lora_flux"
    assert json.loads(found["ss_network_args"]) == {"layers": 26}


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_the_hashes_are_those_of_sd_scripts(layout):
    """For a LoRA of more than 1 MiB, as the legacy hash starts there."""
    tensors = random_lora(tiny_transformer(), rank=128)
    tensors = kohya_tensors(tensors, FLUX1) if layout == "kohya" else tensors
    found = metadata(tensors, layout=layout)
    assert len(save(tensors)) > 0x110000
    assert (found["sshs_model_hash"], found["sshs_legacy_hash"]) == sd_scripts_hashes(tensors, found)
    assert found["modelspec.hash_sha256"] == f"0x{found['sshs_model_hash']}"


def test_the_hash_depends_on_the_tensors_only(tensors):
    name = next(iter(tensors))
    other = tensors | {name: tensors[name] + 1}
    found = metadata(tensors)["sshs_model_hash"]
    assert metadata(tensors, captions=(), seed=1)["sshs_model_hash"] == found
    assert metadata(other)["sshs_model_hash"] != found


def test_the_same_training_gives_the_same_metadata(tensors):
    """Trap 50: there is neither a date nor an author."""
    first = metadata(tensors)
    assert list(first.items()) == list(metadata(tensors).items())
    assert not [name for name in first if any(part in name for part in ("date", "author", "_at", "time"))]


def test_tags_count_the_captions_that_have_them(tensors):
    found = tags(metadata(tensors))
    assert found == {"TOK": 2, "a photo of TOK": 2, "on grass": 2, "on snow": 1, "a drawing": 1}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_caption_counts_once_per_tag_and_empty_parts_are_no_tags(tensors):
    assert tags(metadata(tensors, captions=("TOK, TOK,, dog , TOK",))) == {"TOK": 1, "dog": 1}
    assert tags(metadata(tensors, captions=())) == {}
    assert tags(metadata(tensors, captions=("a dog",), trigger_word="")) == {"a dog": 1}


def test_the_number_and_length_of_tags_is_limited(tensors):
    """The most frequent tags are kept; a sentence is no tag."""
    captions = (*(f"tag {index}" for index in range(500)), "often", "often")
    found = tags(metadata(tensors, captions=captions))
    assert len(found) == 200
    assert next(iter(found)) == "often"
    assert tags(metadata(tensors, captions=("x" * 101, "y" * 100))) == {"y" * 100: 1}


@pytest.mark.parametrize(
    ("trigger_word", "name"), [("TOK", "TOK"), ("my dog", "my_dog"), ("<a:1>/../b", "a_1_b"), ("", "lora"), ("é", "é")]
)
def test_the_output_name_can_be_used_in_a_prompt_of_a1111(tensors, trigger_word, name):
    assert metadata(tensors, trigger_word=trigger_word)["ss_output_name"] == name


def test_the_usage_hint_explains_the_trigger_word(tensors):
    assert "TOK in the prompt, such as 'a photo of TOK'" in metadata(tensors)["modelspec.usage_hint"]
    assert "in the style of TOK" in metadata(tensors, lora_type="style")["modelspec.usage_hint"]
    without = metadata(tensors, trigger_word="")
    assert "no trigger word" in without["modelspec.usage_hint"]
    assert (without["modelspec.title"], without["modelspec.trigger_phrase"]) == ("LoRA", "")


@pytest.mark.parametrize(("base", "licence"), [("schnell", "Apache-2.0"), ("mine", "that of the base model mine")])
def test_the_licence_is_that_of_the_base(tensors, base, licence):
    assert metadata(tensors, base_model=base)["modelspec.license"] == licence


def test_settings_that_are_no_plain_values_are_refused(tensors):
    """Such as a path or a secret."""
    with pytest.raises(TypeError, match="JSON"):
        metadata(tensors, folder=Path("somewhere"))


def test_text_in_any_script_is_kept(tensors):
    found = metadata(tensors, trigger_word="犬", captions=("犬, ñandú",))
    assert tags(found) == {"犬": 1, "ñandú": 1}
