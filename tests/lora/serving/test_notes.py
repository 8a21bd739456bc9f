"""Inputs that have less effect than they seem to are noted in the log; others are not."""

import json

import pytest
from PIL import Image

from lora.images.size import Size
from lora.serving.notes import notes
from tests.families import FIRST, KLEIN
from tests.generation_requests import a_source
from tests.lora.serving.test_generation import request
from tests.tiny import replace


def noted(pipeline, source=None, *, width=None, height=None, **inputs):
    return list(notes(pipeline, request(**inputs), source, Size(64, 64), are_sides_given=bool(width or height)))


def source(mask=None):
    return a_source(Image.new("RGB", (64, 64)), mask, 0.5)


def test_a_request_whose_inputs_all_have_their_effect_has_no_notes(pipeline):
    assert noted(pipeline, width=64, height=64, aspect_ratio="custom") == []
    assert noted(pipeline, source(Image.new("L", (64, 64), 255)), aspect_ratio="1:1") == []


def red(count):
    return " ".join(["red"] * count)


def most_words(tiny, pipeline):
    """How many words the base reads: each is one token; one more token ends the text, or a template surrounds it."""
    length = tiny.family.text.length(pipeline)
    return max(count for count in range(length) if tiny.family.text.count(pipeline, red(count)) <= length)


def test_a_truncated_prompt_is_noted_with_the_number_of_tokens_that_are_read(tiny, pipeline):
    """D2."""
    words, length = most_words(tiny, pipeline), tiny.family.text.length(pipeline)
    assert noted(pipeline, prompt=red(words)) == []
    (note,) = noted(pipeline, prompt=red(words + 1))
    assert note == f"the prompt has {length + 1} tokens, but the base reads only the first {length}"


@pytest.mark.parametrize("tiny", [KLEIN], indirect=True)
def test_a_truncated_negative_prompt_is_noted_too(tiny, pipeline):
    (note,) = noted(pipeline, negative_prompt=red(most_words(tiny, pipeline) + 1))
    assert note == "negative_prompt has 49 tokens, but the base reads only the first 48"


@pytest.mark.parametrize(
    ("tiny", "guidance", "expected"),
    [
        (FIRST, 3.5, ["negative_prompt is ignored, because FLUX.1 has no second pass that could use it"]),
        (KLEIN, 1.1, []),
        (
            KLEIN,
            1.0,
            ["negative_prompt is ignored, because guidance_scale is 1: only above 1 a second pass uses it"],
        ),
    ],
    indirect=["tiny"],
)
def test_a_negative_prompt_is_noted_if_no_second_pass_uses_it(pipeline, guidance, expected):
    assert noted(pipeline, negative_prompt="a star", guidance_scale=guidance) == expected
    assert noted(pipeline, negative_prompt="", guidance_scale=guidance) == []


@pytest.fixture
def distilled(tiny, tmp_path):
    """A pipeline of the base as if it were distilled: schnell has no guidance embedding."""
    kinds = tiny.family.components
    base = tiny.changed(tmp_path / "base", "model_index.json", is_distilled=True)
    config = base / "transformer/config.json"
    replace(config, json.dumps(json.loads(config.read_text()) | {"guidance_embeds": False}).encode())
    return kinds.pipeline.from_pretrained(base)


def test_what_a_distilled_base_ignores_is_noted(tiny, distilled):
    own = tiny.family.sampling.distilled.guidance
    assert noted(distilled, guidance_scale=own) == []
    guided, negative = noted(distilled, guidance_scale=5.5, negative_prompt="a star")
    assert guided == "guidance_scale 5.5 is ignored, because the base is distilled and takes none"
    assert negative.startswith("negative_prompt is ignored, because ")
    assert negative.endswith("has no second pass that could use it")


@pytest.mark.parametrize("sides", [{"width": 64}, {"height": 64}])
def test_width_and_height_that_are_ignored_are_noted(pipeline, sides):
    """D8."""
    (note,) = noted(pipeline, aspect_ratio="16:9", **sides)
    assert note == "width and height are ignored, because aspect_ratio is 16:9, not custom"


def test_a_black_mask_is_noted(pipeline):
    """D17."""
    (note,) = noted(pipeline, source(Image.new("L", (64, 64), 0)), aspect_ratio="1:1")
    assert note == "the mask is black everywhere, so nothing of the image is regenerated"


def test_a_mask_that_is_black_after_binarization_is_noted(pipeline):
    """D17: dark gray counts as black."""
    (note,) = noted(pipeline, source(Image.new("L", (64, 64), 100)), aspect_ratio="1:1")
    assert note == "the mask is black everywhere, so nothing of the image is regenerated"


def test_an_image_that_overrides_a_chosen_aspect_ratio_is_noted(pipeline):
    """1:1 is the default, which a request with an image usually leaves as it is."""
    (note,) = noted(pipeline, source(), aspect_ratio="16:9")
    assert note == "aspect_ratio 16:9 is ignored, because the output has the shape of the image"
    assert noted(pipeline, source(), aspect_ratio="1:1") == noted(pipeline, aspect_ratio="16:9") == []


def test_an_image_that_overrides_width_and_height_is_noted(pipeline):
    (note,) = noted(pipeline, source(), width=64, height=64, aspect_ratio="custom")
    assert note == "width and height are ignored, because the output has the shape of the image"
