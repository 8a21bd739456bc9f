"""Drawing from nothing, from an image, and in a part of one."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.serving.generation import draw
from script.tiny_flux.following import plain_request
from script.tiny_flux.world import all_scenes, render
from tests.generation_requests import a_source
from tests.tiny import TINY_FLUX, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def image():
    return render(all_scenes()[3], width=64, height=96, rng=random.Random(1))


def request(**changes):
    return dataclasses.replace(plain_request("a red star in a meadow"), **{"num_inference_steps": 4} | changes)


def drawn(pipeline, source=None, **changes):
    return [np.asarray(each, dtype=int) for each in draw(pipeline, request(**changes), source)]


def far(one, other):
    return np.abs(one - other).mean()


def half(image):
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask


def test_each_image_has_the_next_seed(pipeline):
    together = drawn(pipeline, num_outputs=2, seed=5)
    alone = [drawn(pipeline, seed=seed)[0] for seed in (5, 6)]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_an_image_gives_its_size(pipeline, image):
    (result,) = drawn(pipeline, a_source(image, None, 0.5))
    assert result.shape == (96, 64, 3)


def test_the_more_strength_the_less_of_the_image_is_left(pipeline, image):
    original = np.asarray(image, dtype=int)
    distances = [far(drawn(pipeline, a_source(image, None, strength))[0], original) for strength in (0.0, 0.25, 1.0)]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize(("strength", "steps"), [(0.0, 1), (0.01, 1), (0.1, 4), (1.0, 1)])
def test_there_is_no_strength_that_cannot_be_drawn(pipeline, image, strength, steps):
    """D19: strength times steps below one."""
    for mask in (None, half(image)):
        assert len(drawn(pipeline, a_source(image, mask, strength), num_inference_steps=steps)) == 1


def test_outside_the_mask_the_image_stays(pipeline, image):
    (result,) = drawn(pipeline, a_source(image, half(image), 1.0))
    original = np.asarray(image, dtype=int)
    inside, outside = np.s_[:, :24], np.s_[:, 40:]
    assert far(result[outside], original[outside]) < 12
    assert far(result[inside], original[inside]) > 2 * far(result[outside], original[outside])


def test_a_mask_of_nothing_gives_the_image_back(pipeline, image):
    """D17."""
    (result,) = drawn(pipeline, a_source(image, Image.new("L", image.size, 0), 1.0))
    assert np.array_equal(result, np.asarray(image))


def test_the_same_seed_gives_the_same_pixels(pipeline, image):
    """D23."""
    for source in (None, a_source(image, None, 0.7), a_source(image, half(image), 0.7)):
        one, other = drawn(pipeline, source)[0], drawn(pipeline, source)[0]
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("strength", "masked", "steps"), [(None, False, 8), (0.5, False, 4), (0.5, True, 4), (1.0, False, 8)]
)
def test_each_step_of_each_image_is_counted(pipeline, image, strength, masked, steps):
    source = strength and a_source(image, half(image) if masked else None, strength)
    lines = []
    list(draw(pipeline, request(num_outputs=2), source, say=lines.append))
    assert lines[-1].endswith(f"| {steps}/{steps}")


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_drawn_from_an_image_leaves_the_precision_of_the_weights(image, masked):
    half_precision = FluxPipeline.from_pretrained(TINY_FLUX, dtype=torch.bfloat16)
    drawn(half_precision, a_source(image, half(image) if masked else None, 0.5))
    parts = half_precision.transformer, half_precision.vae, half_precision.text_encoder, half_precision.text_encoder_2
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.bfloat16}
