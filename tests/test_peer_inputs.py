"""No input of a public trainer or predictor is dropped: each is declared, and works, is noted or is refused.

The inputs are those of replicate/flux-fine-tuner (train.py, predict.py), replicate/cog-flux (predict.py) and lucataco's
cog-flux-dev-lora and cog-flux-dev-multi-lora. Two are known from client code only: the trainer
replicate/fast-flux-trainer, and `lora_strength` of flux-kontext-dev-lora. Those for reference images of flux-2-klein-4b
are from its page on Replicate.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora.flux.sampling import SAMPLING
from lora.reporting.trackers.wandb_run import WandbTarget
from lora.seeds import check_seed
from lora.serving.inputs import PredictionInputs, complete_inputs
from lora.serving.request import SIZES
from lora.serving.requested_loras import repetition_notes
from predict import Runner
from script.openapi import openapi, training_inputs
from tests.lora.serving.test_request import checked as checked_request
from tests.tiny import assert_one_sentence, checked_config, encoded, solid_image, write

ROOT = Path(__file__).parent.parent
RATIOS = ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]
SKIP_TRAINING = "skip_training_and_use_pretrained_hf_lora_url"
TWO_NAMES = "expected only one of them, because they are two names of one input"


@dataclass(frozen=True)
class PeerInput:
    """An input of a peer: its type in the schema, its default, and the other values that it takes, or the ends of their
    range."""

    type: str
    default: Any = None
    values: tuple[Any, ...] = ()


def choice(default: str, *values: str) -> PeerInput:
    return PeerInput("string", default, values)


def number(default: float | None, *ends: float) -> PeerInput:
    return PeerInput("number", default, ends)


def whole(default: int | None, *ends: int) -> PeerInput:
    return PeerInput("integer", default, ends)


def switch(default: bool) -> PeerInput:
    return PeerInput("boolean", default, (True, False))


TEXT = PeerInput("string")  # files and secrets, too
LISTED = PeerInput("array", [])
IMAGES = {
    "prompt": TEXT,
    "aspect_ratio": choice("1:1", *RATIOS),
    "num_outputs": whole(1, 1, 4),
    "num_inference_steps": whole(28, 1, 50),
    "seed": whole(None),
    "output_format": choice("webp", "jpg", "png"),
    "output_quality": whole(80, 0, 100),
    "disable_safety_checker": switch(False),
}
FROM_IMAGE = {"image": TEXT, "prompt_strength": number(0.8, 0, 1)}
ONE_LORA = {"lora_weights": TEXT, "lora_scale": number(1, -1, 3)}
FAST = {"go_fast": switch(True), "megapixels": choice("1", "0.25")}
TRAINED = {
    **IMAGES,
    **FROM_IMAGE,
    "mask": TEXT,
    "aspect_ratio": choice("1:1", *RATIOS, "custom"),
    "width": whole(None, 256, 1440),
    "height": whole(None, 256, 1440),
    "model": choice("dev", "schnell"),
    "guidance_scale": number(3, 0, 10),
    "replicate_weights": TEXT,
    "lora_scale": number(1, -1, 3),
    "extra_lora": TEXT,
    "extra_lora_scale": number(1, -1, 3),
}
LUCATACO = {**IMAGES, **FROM_IMAGE, "guidance_scale": number(3.5, 0, 10)}
PREDICTORS = {
    "flux-fine-tuner": {
        **TRAINED,
        "guidance_scale": number(3.5, 0, 10),
        "output_quality": whole(90, 0, 100),
        "lora_scale": number(1, -1, 2),
        "extra_lora_scale": number(1, -1, 2),
    },
    "a version trained on Replicate": {**TRAINED, **FAST, "go_fast": switch(False)},
    "black-forest-labs/flux-dev-lora": {
        **IMAGES,
        **FROM_IMAGE,
        **ONE_LORA,
        **FAST,
        "guidance": number(3, 0, 10),
        "extra_lora": TEXT,
        "extra_lora_scale": number(1, -1, 3),
        "hf_api_token": TEXT,
        "civitai_api_token": TEXT,
    },
    "black-forest-labs/flux-schnell-lora": {**IMAGES, **ONE_LORA, **FAST, "num_inference_steps": whole(4, 1, 4)},
    "black-forest-labs/flux-fill-dev": {
        **{name: each for name, each in IMAGES.items() if name != "aspect_ratio"},
        **ONE_LORA,
        "image": TEXT,
        "mask": TEXT,
        "guidance": number(30, 0, 100),
        "megapixels": choice("1", "0.25", "match_input"),
    },
    "black-forest-labs/flux-kontext-dev-lora": {"lora_strength": number(None)},
    "black-forest-labs/flux-2-klein-4b": {
        "images": LISTED,
        "aspect_ratio": choice("1:1", *RATIOS, "match_input_image"),
    },
    "lucataco/flux-dev-lora": {**LUCATACO, "hf_lora": TEXT, "lora_scale": number(0.8, 0, 1)},
    "lucataco/flux-dev-multi-lora": {**LUCATACO, "hf_loras": LISTED, "lora_scales": LISTED},
}
PUBLIC_TRAINER = {
    "input_images": TEXT,
    "trigger_word": choice("TOK", ""),
    "autocaption": switch(True),
    "autocaption_prefix": TEXT,
    "autocaption_suffix": TEXT,
    "steps": whole(1000, 3, 6000),
    "learning_rate": number(4e-4),
    "batch_size": whole(1),
    "resolution": choice("512,768,1024"),
    "lora_rank": whole(16, 1, 128),
    "caption_dropout_rate": number(0.05, 0, 1),
    "optimizer": choice("adamw8bit", "prodigy"),
    "cache_latents_to_disk": switch(False),
    "layers_to_optimize_regex": TEXT,
    "gradient_checkpointing": switch(False),
    "hf_repo_id": TEXT,
    "hf_token": TEXT,
    "wandb_api_key": TEXT,
    "wandb_project": choice("flux_train_replicate"),
    "wandb_run": TEXT,
    "wandb_entity": TEXT,
    "wandb_sample_interval": whole(100, 1, 10_000),
    "wandb_sample_prompts": TEXT,
    "wandb_save_interval": whole(100, 1, 10_000),
    SKIP_TRAINING: TEXT,
}
FAST_TRAINER = {
    "input_images": TEXT,
    "trigger_word": choice("TOK"),
    "lora_type": choice("subject", "style"),
    "training_steps": whole(None, 1000),
}
TRAINERS = {"ostris/flux-dev-lora-trainer": PUBLIC_TRAINER, "replicate/fast-flux-trainer": FAST_TRAINER}
PEERS = {**TRAINERS, **PREDICTORS}

# Inputs whose own names are others, or that do not work yet. All others work under their own name.
ANOTHER_NAME = {
    **{"guidance": "guidance_scale", "hf_lora": "lora_weights", "hf_loras": "loras", "lora_strength": "lora_scale"},
    **{"lora_scales": "loras", "training_steps": "steps", "images": "reference_images"},
    **{"wandb_sample_prompts": "sample_prompts", "wandb_sample_interval": "sample_every"},
}
NOTED = {"wandb_save_interval"}
WANDB = {"wandb_api_key", "wandb_project", "wandb_run", "wandb_entity"}
HUB = {"hf_repo_id", "hf_token", "hf_private"}
ONLY_FOR_CLIENTS = {*ANOTHER_NAME, *NOTED, *WANDB, *HUB, SKIP_TRAINING}

# Values that the schema refuses, as only FLUX.1 Fill, another base, has a use for them.
REFUSED_VALUES = {
    ("black-forest-labs/flux-fill-dev", "guidance"): (30, 100),
    ("black-forest-labs/flux-fill-dev", "megapixels"): ("match_input",),
}
# Defaults that the base, lora_type or the other inputs choose, and those that docs/serving.md lists as different.
CHOSEN = {
    "aspect_ratio",
    "model",
    "num_inference_steps",
    "guidance",
    "guidance_scale",
    "caption_dropout_rate",
    "lora_type",
}
LISTED_AS_DIFFERENT = {"go_fast", "output_quality", "lora_scale", "guidance"}


def ours(peer: str) -> dict[str, Any]:
    """The schemas of our inputs by name, with their choices inline."""
    return training_schemas() if peer in TRAINERS else prediction_schemas()


@functools.cache
def training_schemas() -> dict[str, Any]:
    return training_inputs(ROOT)


@functools.cache
def prediction_schemas() -> dict[str, Any]:
    schemas = openapi(ROOT)["components"]["schemas"]
    inputs = schemas["Input"]["properties"]
    return {name: {**schemas[name], **schema} if "allOf" in schema else schema for name, schema in inputs.items()}


def is_accepted(value: Any, schema: dict[str, Any]) -> bool:
    if value not in schema.get("enum", [value]):
        return False
    return not isinstance(value, int | float) or (schema.get("minimum", value) <= value <= schema.get("maximum", value))


@pytest.mark.parametrize("peer", PEERS)
def test_every_input_of_a_peer_is_declared_with_its_type(peer):
    schemas = ours(peer)
    types = {name: schemas[name]["type"] if name in schemas else "missing" for name in PEERS[peer]}
    assert types == {name: each.type for name, each in PEERS[peer].items()}


@pytest.mark.parametrize("peer", PEERS)
def test_every_value_that_a_peer_takes_is_taken(peer):
    schemas = ours(peer)
    for name, each in PEERS[peer].items():
        given = [value for value in (each.default, *each.values) if value is not None]
        refused = tuple(value for value in given if not is_accepted(value, schemas[name]))
        assert refused == REFUSED_VALUES.get((peer, name), ()), name


@pytest.mark.parametrize("peer", PEERS)
def test_a_default_is_the_peers_or_is_listed_as_different(peer):
    schemas = ours(peer)
    different = {name for name, each in PEERS[peer].items() if schemas[name].get("default") != each.default}
    assert different - CHOSEN <= LISTED_AS_DIFFERENT


def test_the_documentation_lists_every_default_that_differs():
    _, _, section = (ROOT / "docs/serving.md").read_text().partition("## Differences")
    assert all(f"`{name}`" in section for name in LISTED_AS_DIFFERENT)


@pytest.mark.parametrize("schemas", [training_schemas, prediction_schemas], ids=["train", "predict"])
def test_names_that_only_other_clients_need_come_last(schemas):
    inputs = schemas()
    names = list(inputs)
    first = min(names.index(name) for name in ONLY_FOR_CLIENTS & inputs.keys())
    assert set(names[first:]) <= ONLY_FOR_CLIENTS
    for name in names[first:]:
        description = inputs[name]["description"]
        if name in ANOTHER_NAME and name not in ("hf_loras", "lora_scales"):
            assert description.startswith(f"Another name for {ANOTHER_NAME[name]}")
        elif name not in {*HUB, SKIP_TRAINING, *ANOTHER_NAME, *WANDB, "wandb_save_interval"}:
            assert description.startswith("Not there yet")


# The trainer


def test_the_public_trainers_defaults_change_nothing_and_need_no_note():
    """Clients send them, too."""
    defaults = {name: each.default for name, each in PUBLIC_TRAINER.items() if name != "input_images"}
    own = checked_config(caption_dropout_rate=0.05)
    assert checked_config(**defaults) == own
    assert own.notes == ()


def test_an_upload_goes_where_the_inputs_say_and_is_no_setting_of_the_lora():
    config = checked_config(hf_repo_id=" me/lora ", hf_token="hf_s3cret", hf_private=False)
    theirs = config.public_trainer
    assert (theirs.hf_repo_id, theirs.hf_token, theirs.hf_private) == ("me/lora", "hf_s3cret", False)
    assert config.notes == ()
    assert config.settings() == checked_config().settings()


def test_an_upload_to_something_else_than_a_repository_is_refused():
    with pytest.raises(ValueError) as error:
        checked_config(hf_repo_id="my-lora", hf_token="hf_s3cret")
    assert_one_sentence(error.value, "hf_repo_id is 'my-lora'", "expected owner/name on Hugging Face")
    assert "s3cret" not in str(error.value)


def test_an_upload_is_private_unless_asked_otherwise():
    """That of the public trainer is always public."""
    assert checked_config().public_trainer.hf_private


@pytest.mark.parametrize("blank", [None, "", " "])
def test_blank_text_for_an_input_of_the_public_trainer_is_none(blank):
    names = ("hf_repo_id", "hf_token", "wandb_api_key", "wandb_run", "wandb_sample_prompts", SKIP_TRAINING)
    assert checked_config(**dict.fromkeys(names, blank)) == checked_config()


def test_a_key_of_weights_and_biases_and_a_token_are_never_shown():
    config = checked_config(wandb_api_key="wb_s3cret", hf_token="hf_s3cret", wandb_run="mine")
    (note,) = config.notes
    assert note.startswith("hf_token has no effect")
    assert "s3cret" not in f"{config!r} {config.settings()} {config.public_trainer.wandb_target()!r}"


def test_a_run_of_weights_and_biases_goes_where_the_inputs_say():
    config = checked_config(wandb_api_key="key", wandb_project="p", wandb_run="r", wandb_entity="e")
    assert config.public_trainer.wandb_target() == WandbTarget("key", "p", "e", "r")
    assert checked_config().public_trainer.wandb_target() == WandbTarget(None, "flux_train_replicate", None, None)


@pytest.mark.parametrize("name", ["hf_token", "wandb_api_key"])
def test_a_secret_of_another_type_is_refused_and_not_shown(name):
    with pytest.raises(ValueError) as error:
        checked_config(**{name: ["s3cret"]})
    assert_one_sentence(error.value, f"{name} is of type list", "expected text")
    assert "s3cret" not in str(error.value)


def test_sample_prompts_for_weights_and_biases_are_sample_prompts():
    config = checked_config(
        wandb_api_key="key", wandb_sample_prompts="a red star\n\na blue star", wandb_sample_interval=9_000
    )
    assert (config.sample_prompts, config.sample_every) == (("a red star", "a blue star"), 9_000)


def test_sample_prompts_for_weights_and_biases_have_no_effect_without_a_key():
    config = checked_config(wandb_sample_prompts="a red star")
    assert config.sample_prompts is None
    (note,) = config.notes
    assert note.startswith("wandb_sample_prompts has no effect without wandb_api_key, as in the public trainer")


def test_two_different_lists_of_sample_prompts_are_refused():
    given = {"wandb_api_key": "key", "sample_prompts": "a red star"}
    with pytest.raises(ValueError) as error:
        checked_config(wandb_sample_prompts="a blue star", **given)
    assert_one_sentence(error.value, "sample_prompts and wandb_sample_prompts", TWO_NAMES)
    assert checked_config(wandb_sample_prompts="a red star ", **given).sample_prompts == ("a red star",)


@pytest.mark.parametrize("name", ["wandb_sample_interval", "wandb_save_interval"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "100"])
def test_an_interval_for_weights_and_biases_is_a_number_of_steps(name, value):
    with pytest.raises(ValueError) as error:
        checked_config(**{name: value})
    assert_one_sentence(error.value, f"{name} is {value!r}", "expected")


# The predictor


def checked(**inputs: Any) -> PredictionInputs:
    complete = complete_inputs({"prompt": "a red star", **inputs}, entry=Runner.run)
    return PredictionInputs.checked(complete, defaults=SAMPLING.defaults, trained="")


def scales(**inputs: Any) -> list[tuple[str, str, float]]:
    return [(lora.named, lora.reference, lora.scale) for lora in checked(**inputs).loras]


def test_hf_lora_is_lora_weights():
    assert scales(hf_lora=" a/b ", lora_scale=0.5) == [("hf_lora", "a/b", 0.5)]
    assert scales(hf_lora="a/b", lora_weights="a/b ") == [("lora_weights", "a/b", 1.0)]
    assert scales(hf_lora="a/b", replicate_weights="c/d") == [("hf_lora", "a/b", 1.0)]
    assert scales(hf_lora=" ", replicate_weights="c/d") == [("replicate_weights", "c/d", 1.0)]


def test_two_different_references_are_refused_without_showing_them():
    with pytest.raises(ValueError) as error:
        checked(hf_lora="https://a.example/x?s3cret", lora_weights="a/b")
    assert_one_sentence(error.value, "lora_weights and hf_lora are both given and differ", TWO_NAMES)
    assert "s3cret" not in str(error.value)


def test_lora_strength_is_lora_scale():
    assert scales(lora_weights="a/b", lora_strength=0.5) == [("lora_weights", "a/b", 0.5)]
    assert scales(lora_weights="a/b", lora_strength=0.5, lora_scale=0.5) == [("lora_weights", "a/b", 0.5)]


@pytest.mark.parametrize(
    ("given", "first", "last"),
    [([], 0.8, 0.8), ([0.5], 0.5, 0.5), ([0.5, 3, -1], 0.5, -1.0)],
    ids=["none is 0.8", "one is for all", "one for each"],
)
def test_hf_loras_are_more_loras_with_their_scales(given, first, last):
    found = scales(lora_weights="a/b", hf_loras=["c/d", " ", "e/f"], lora_scales=given)
    assert found == [("lora_weights", "a/b", 1.0), ("hf_loras[0]", "c/d", first), ("hf_loras[2]", "e/f", last)]


@pytest.mark.parametrize(
    ("inputs", "fragment"),
    [
        ({"lora_scale": 0.5, "lora_strength": 0.6}, f"lora_scale is 0.5 and lora_strength is 0.6: {TWO_NAMES}"),
        ({"lora_strength": 4}, "lora_strength is 4"),
        ({"hf_lora": 5}, "hf_lora is 5"),
        ({"hf_loras": "a/b"}, "hf_loras is 'a/b': expected a list"),
        ({"hf_loras": [5]}, "hf_loras[0] is 5"),
        ({"hf_loras": ["a/b"] * 17}, "hf_loras holds 17 LoRAs"),
        ({"hf_loras": ["a/b"] * 3, "lora_scales": [1, 2]}, "lora_scales holds 2 scales for 3 LoRAs in hf_loras"),
        ({"hf_loras": ["a/b"], "lora_scales": [4]}, "lora_scales[0] is 4"),
        ({"lora_scales": 1}, "lora_scales is 1: expected a list"),
    ],
)
def test_an_input_of_another_predictor_that_cannot_be_meant_is_refused(inputs, fragment):
    with pytest.raises(ValueError) as error:
        checked(**inputs)
    assert_one_sentence(error.value, fragment, "expected")


# Differences that docs/serving.md lists


def test_every_shape_has_the_public_predictors_size():
    """Theirs for 0.25 megapixels: half of each side, rounded down."""
    for ratio in RATIOS:
        width, height = SIZES[ratio]
        assert checked_request(aspect_ratio=ratio).size(native=1024) == (width, height)
        quarter = checked_request(aspect_ratio=ratio, megapixels="0.25").size(native=1024)
        assert quarter == (width // 2, height // 2)
    assert list(SIZES) == RATIOS


def test_a_custom_size_is_rounded_to_the_nearest_where_the_public_predictors_round_up():
    width, height = 1010, 1000
    theirs = tuple((side + 15) // 16 * 16 for side in (width, height))
    request = checked_request(aspect_ratio="custom", width=width, height=height)
    assert (request.size(native=1024), theirs) == ((1008, 1008), (1024, 1008))


def test_the_same_lora_twice_is_applied_twice_and_noted():
    loras = checked(lora_weights="a/b", extra_lora=" a/b", loras=["c/d:2"]).loras
    assert [lora.scale for lora in loras] == [1.0, 1.0, 2.0]
    assert list(repetition_notes(loras)) == ["lora_weights and extra_lora are the same LoRA, whose scales add up"]


def test_0_is_a_seed_and_a_negative_one_is_random():
    assert check_seed("seed", 0) == 0
    assert len({check_seed("seed", -1) for _ in range(5)}) > 1


def test_a_mask_without_an_image_is_refused(tmp_path):
    mask = write(tmp_path / "mask.png", encoded(Image.new("L", (8, 8), 255)))
    with pytest.raises(ValueError, match="mask is given without image"):
        checked(mask=mask)


def test_go_fast_stays_on_with_an_image_and_with_a_custom_size(tmp_path):
    image = write(tmp_path / "image.png", encoded(solid_image(64, 64)))
    assert checked(go_fast=True, image=image).request.go_fast
    assert checked(go_fast=True, aspect_ratio="custom", width=64, height=64).request.go_fast
