"""Text to image, image to image, and inpainting."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from lora.serving.generation import generate
from lora.serving.progress import Progress
from script.tiny_flux.following import plain_request
from script.tiny_flux.world import all_scenes, render
from tests.generation_requests import a_source
from tests.tiny import noisy_image


@pytest.fixture(scope="module")
def image():
    return render(all_scenes()[3], width=64, height=96, rng=random.Random(1))


def request(**changes):
    return dataclasses.replace(plain_request("a red star in a meadow"), **{"num_inference_steps": 4} | changes)


def generated(pipeline, source=None, **changes):
    return [np.asarray(each, dtype=int) for each in generate(pipeline, request(**changes), source)]


def distance(one, other):
    return np.abs(one - other).mean()


def half(image):
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask


def test_each_image_has_the_next_seed(pipeline):
    together = generated(pipeline, num_outputs=2, seed=5)
    alone = [generated(pipeline, seed=seed)[0] for seed in (5, 6)]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_the_result_has_the_size_of_the_source_image(pipeline, image):
    (result,) = generated(pipeline, a_source(image, None, 0.5))
    assert result.shape == (96, 64, 3)


def test_the_more_strength_the_less_of_the_image_is_left(pipeline, image):
    original = np.asarray(image, dtype=int)
    distances = [
        distance(generated(pipeline, a_source(image, None, strength))[0], original) for strength in (0.0, 0.25, 1.0)
    ]
    assert distances[0] == 0
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize(("strength", "steps"), [(0.0, 1), (0.01, 1), (0.1, 4), (1.0, 1)])
def test_an_image_is_generated_at_every_strength(pipeline, image, strength, steps):
    """D19: strength times steps may be below one."""
    for mask in (None, half(image)):
        assert len(generated(pipeline, a_source(image, mask, strength), num_inference_steps=steps)) == 1


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("size", [(96, 64), (100, 70), (300, 200)])
def test_outside_the_mask_every_pixel_of_every_image_is_that_of_the_source_in_its_own_size(
    tiny, pipeline, size, strength
):
    """The sizes: one that is generated as it is, one that is no multiple of 16, one with more pixels than the base."""
    image = noisy_image(*size)
    native = pipeline.vae.config.sample_size
    feather = 2 * tiny.family.latents.pixels + 1  # from here on, in pixels of the generated image, the source is kept
    edge = feather * max(1.0, (size[0] * size[1]) ** 0.5 / native)
    results = generated(pipeline, a_source(image, half(image), strength), num_outputs=2, num_inference_steps=2)
    original, kept = np.asarray(image, dtype=int), np.s_[:, math.ceil(size[0] // 2 + edge) + 1 :]
    for result in results:
        assert result.shape == original.shape
        assert original[kept].size
        assert np.array_equal(result[kept], original[kept])
        assert distance(result[:, : size[0] // 2], original[:, : size[0] // 2]) > 10
    assert not np.array_equal(*results)


def test_a_spot_of_a_few_pixels_follows_the_prompt_wherever_it_is_in_a_latent(pipeline, image):
    """Of each latent, 8 pixels square, diffusers reads the first pixel of the mask."""
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (37, 45, 39, 47))
    one, other = (generated(pipeline, a_source(image, mask, 1.0), prompt=prompt)[0] for prompt in ("a star", "a house"))
    assert not np.array_equal(one[45:47, 37:39], other[45:47, 37:39])


@pytest.mark.parametrize(("color", "strength"), [(0, 1.0), (255, 0.0)])
@pytest.mark.parametrize("size", [(64, 96), (300, 200)])
def test_a_black_mask_or_no_strength_returns_the_source_image_in_its_own_size(pipeline, size, color, strength):
    """D17."""
    image = noisy_image(*size)
    (result,) = generated(pipeline, a_source(image, Image.new("L", size, color), strength))
    assert np.array_equal(result, np.asarray(image))


def test_the_same_seed_gives_the_same_pixels(pipeline, image):
    """D23."""
    for source in (None, a_source(image, None, 0.7), a_source(image, half(image), 0.7)):
        one, other = generated(pipeline, source)[0], generated(pipeline, source)[0]
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("strength", "masked", "steps"), [(None, False, 8), (0.5, False, 4), (0.5, True, 4), (1.0, False, 8)]
)
def test_each_step_of_each_image_is_counted(pipeline, image, strength, masked, steps):
    source = strength and a_source(image, half(image) if masked else None, strength)
    lines = []
    progress = Progress(lines.append, images=2)
    list(generate(pipeline, request(num_outputs=2), source, progress=progress))
    assert lines[-1].endswith(f"| {steps}/{steps}")
    assert progress.done == steps


@pytest.mark.parametrize("masked", [False, True])
def test_image_to_image_does_not_change_the_precision_of_the_weights(tiny, image, masked):
    half_precision = tiny.family.components.pipeline.from_pretrained(tiny.folder, dtype=torch.bfloat16)
    generated(half_precision, a_source(image, half(image) if masked else None, 0.5))
    components = [getattr(half_precision, name) for name in tiny.family.components.models]
    assert {parameter.dtype for each in components for parameter in each.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["text", "image", "mask"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_image_with_nan_or_infinite_latents_is_an_error_instead_of_black(pipeline, image, kind, number):
    row = pipeline.transformer.proj_out.weight.data[0]
    whole = row.clone()
    source = None if kind == "text" else a_source(image, half(image) if kind == "mask" else None, 0.5)
    row.fill_(number)
    try:
        with pytest.raises(FloatingPointError):
            generated(pipeline, source, num_inference_steps=2)
    finally:
        row.copy_(whole)
    assert generated(pipeline, source, num_inference_steps=2)
