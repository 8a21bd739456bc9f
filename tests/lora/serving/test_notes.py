"""What is drawn, but not quite as it was asked for, is said; what is drawn as asked is not."""

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


def said(pipeline, source=None, *, width=None, height=None, **inputs):
    return list(notes(pipeline, request(**inputs), source, Size(64, 64), width=width, height=height))


def source(mask=None):
    return a_source(Image.new("RGB", (64, 64)), mask, 0.5)


def test_nothing_is_said_of_a_request_that_is_drawn_as_it_is_written(pipeline):
    assert said(pipeline, width=64, height=64, aspect_ratio="custom") == []
    assert said(pipeline, source(Image.new("L", (64, 64), 255)), aspect_ratio="1:1") == []


def test_a_prompt_that_is_too_long_to_be_read_is_said_with_how_much_of_it_is(pipeline):
    """D2; a word of one token each, and one that ends the text."""
    assert said(pipeline, prompt="red " * 31, aspect_ratio="1:1") == []
    (note,) = said(pipeline, prompt="red " * 32, aspect_ratio="1:1")
    assert note == "the prompt has 33 tokens, of which the first 32 are read"


@pytest.mark.parametrize("sides", [{"width": 64}, {"height": 64}])
def test_sides_that_are_not_looked_at_are_said(pipeline, sides):
    """D8."""
    (note,) = said(pipeline, aspect_ratio="16:9", **sides)
    assert note == "width and height are not looked at, as aspect_ratio is 16:9, not custom"


def test_a_mask_that_lets_nothing_be_drawn_is_said(pipeline):
    """D17."""
    (note,) = said(pipeline, source(Image.new("L", (64, 64), 0)), aspect_ratio="1:1")
    assert note == "the mask is black everywhere, so the image stays as it is"


def test_a_mask_that_is_black_only_as_it_is_drawn_with_is_said(pipeline):
    """D17: gray, which counts as black."""
    (note,) = said(pipeline, source(Image.new("L", (64, 64), 100)), aspect_ratio="1:1")
    assert note == "the mask is black everywhere, so the image stays as it is"


def test_an_image_that_decides_the_shape_is_said(pipeline):
    (note,) = said(pipeline, source(), width=64, height=64, aspect_ratio="custom")
    assert note == "the shape of the image counts, not width and height"
