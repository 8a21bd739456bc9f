"""The model card is what the Hub's widgets and inference providers read, whatever stands in prompts."""

import ast
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from lora.publishing.card import CardContents, CardImage, HeldOutLoss, Licence, card_of, code_span
from lora.publishing.usage import BaseModel

DEV = BaseModel("FLUX.1 [dev]", "black-forest-labs/FLUX.1-dev", "path/to/dev", "FluxPipeline", 28, 3.5, {})
CONTENTS = CardContents(
    base=DEV,
    licence=Licence("flux-1-dev-non-commercial-license", "https://example.com/LICENSE.md", has_hub_name=False),
    trigger_word="TOK",
    example="a photo of TOK",
    images=(),
    exported_step=700,
    summary="The LoRA is from step 700 of 1000: the best.",
    held_out=HeldOutLoss(0.5, 0.25, 700),
    settings=(("steps", "1000"), ("layers", "all")),
    repository="me/lora",
)
HOSTILE = [
    "TOK: a 'quoted' # word",
    '"""',
    "--- ",
    "- a: [b, {c",
    "``` `` ` </Gallery> <script>",
    "%TAG ! tag:x\\",
    "yes",
    "1e3",
    "null",
    "été 画 😀 \u2028 \x07 |",
    "x" * 300 + " # " + "y " * 100,
    "a\n---\nb: c",
]


def images(prompt="a TOK", steps=(0, 250, 500, 750, 1000)):
    return tuple(CardImage(f"samples/step-{step}.jpg", prompt, 42, step) for step in steps)


def read(contents):
    """The metadata as huggingface_hub reads it, and the text."""
    card = ModelCard(card_of(contents))
    return card.data.to_dict(), card.text


def program(contents):
    """The program for diffusers."""
    return read(contents)[1].partition("```python\n")[2].partition("\n```\n")[0]


def test_the_metadata_are_those_that_widgets_and_inference_providers_match():
    data, text = read(replace(CONTENTS, images=images()))
    assert data["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert data["base_model_relation"] == "adapter"
    assert {"lora", "diffusers", "template:sd-lora", "base_model:adapter:black-forest-labs/FLUX.1-dev"} < {
        *data["tags"]
    }
    assert (data["library_name"], data["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert data["instance_prompt"] == "TOK"
    assert data["widget"] == [{"text": "a TOK", "output": {"url": "samples/step-750.jpg"}}]
    assert "<Gallery />" in text


def test_the_image_nearest_to_the_returned_step_is_shown_beside_that_before_the_training():
    _, text = read(replace(CONTENTS, images=images()))
    assert "![step 0](<samples/step-0.jpg>) ![step 750](<samples/step-750.jpg>)" in text
    _, text = read(replace(CONTENTS, images=images(steps=(0, 1000)), exported_step=100))
    assert "![step 1000]" in text, "that of step 0 shows nothing of the LoRA"


def test_the_text_has_trigger_word_strength_settings_and_held_out_loss():
    _, text = read(CONTENTS)
    for part in ("`TOK`", "strength 1", "- steps: `1000`", "0.5000 before the training, 0.2500 at step 700", "ComfyUI"):
        assert part in text


def test_the_licence_is_that_of_the_base():
    data, _ = read(CONTENTS)
    names = ("license", "license_name", "license_link")
    assert [data[name] for name in names] == ["other", CONTENTS.licence.name, CONTENTS.licence.link]
    data, _ = read(replace(CONTENTS, licence=Licence("Apache-2.0", "https://example.com", has_hub_name=True)))
    assert [data.get(name) for name in names] == ["apache-2.0", None, None]
    data, _ = read(replace(CONTENTS, licence=Licence("that of the base model x", None, has_hub_name=False)))
    assert [data.get(name) for name in names] == [None, None, None]


def test_a_base_that_is_not_on_the_hub_is_not_claimed():
    data, _ = read(replace(CONTENTS, base=replace(DEV, repository=None, folder="path/to/x")))
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert not any(tag.startswith("base_model") for tag in data["tags"])


@pytest.mark.parametrize("text", HOSTILE)
def test_any_prompt_and_trigger_word_survive_the_metadata_and_the_program(text):
    contents = replace(CONTENTS, trigger_word=text, example=text, images=images(text), settings=(("layers", text),))
    data, body = read(contents)
    assert data["instance_prompt"] == text
    assert data["widget"][0]["text"] == text
    assert data["license_name"] == CONTENTS.licence.name
    assert body.startswith("\n# ")
    strings = [node.value for node in ast.walk(ast.parse(program(contents))) if isinstance(node, ast.Constant)]
    assert text in strings
    assert "me/lora" in strings


def test_without_a_trigger_word_none_is_claimed():
    data, text = read(replace(CONTENTS, trigger_word=""))
    assert "instance_prompt" not in data
    assert "There is none: prompt as without the LoRA" in text


def test_the_card_in_a_tar_loads_the_lora_from_the_unpacked_tar():
    contents = replace(CONTENTS, repository=None)
    assert 'load_lora_weights("output/flux_train_replicate", weight_name="lora.safetensors"' in program(contents)


@pytest.mark.parametrize(
    ("text", "span"), [("a", "`a`"), ("`a`", "`` `a` ``"), ("a``b", "```a``b```"), ("a\nb", "`a b`")]
)
def test_code_in_markdown_ends_where_it_should(text, span):
    assert code_span(text) == span
