"""Inputs that have less effect than they seem to are noted in the log; others are not."""

import pytest
from PIL import Image

from lora.images.size import Size
from lora.serving.notes import notes
from tests.generation_requests import a_source
from tests.lora.serving.test_generation import request
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def noted(pipeline, source=None, *, width=None, height=None, **inputs):
    return list(notes(pipeline, request(**inputs), source, Size(64, 64), are_sides_given=bool(width or height)))


def source(mask=None):
    return a_source(Image.new("RGB", (64, 64)), mask, 0.5)


def test_a_request_whose_inputs_all_have_their_effect_has_no_notes(pipeline):
    assert noted(pipeline, width=64, height=64, aspect_ratio="custom") == []
    assert noted(pipeline, source(Image.new("L", (64, 64), 255)), aspect_ratio="1:1") == []


def test_a_truncated_prompt_is_noted_with_the_number_of_tokens_that_are_read(pipeline):
    """D2: each word is one token, and one more token ends the text."""
    assert noted(pipeline, prompt="red " * 31, aspect_ratio="1:1") == []
    (note,) = noted(pipeline, prompt="red " * 32, aspect_ratio="1:1")
    assert note == "the prompt has 33 tokens, but the base reads only the first 32"


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
