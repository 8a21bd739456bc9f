"""Photographs in focus are sharp, blurred ones are not, and noise does not hide it."""

import numpy as np
import pytest
from PIL import Image

from bench.planted import PHOTOGRAPHS, blurred, compressed, focused, photograph
from lora.dataset.photo_advice import BLURRED
from lora.dataset.sharpness import blur_of
from lora.dataset.sizes import training_size
from lora.images.size import Size, fit
from tests.tiny import noisy_image, solid_image

RESOLUTION = 512


@pytest.fixture(scope="module")
def photographs():
    images = map(photograph, PHOTOGRAPHS[::2])
    return [fit(image, training_size(Size(*image.size), resolution=RESOLUTION)) for image in images]


@pytest.mark.parametrize("noise", [0, 8])
def test_photographs_in_focus_are_sharp(photographs, noise):
    assert max(blur_of(blurred(image, 0, noise)) for image in photographs) < BLURRED


@pytest.mark.parametrize(("radius", "noise"), [(3, 0), (4, 8), (10, 0)])
def test_blurred_photographs_are_not_sharp_whatever_their_noise(photographs, radius, noise):
    found = [blur_of(blurred(image, radius, noise)) for image in photographs]
    assert sum(blur is not None and blur > BLURRED for blur in found) >= len(found) - 1


def test_the_blur_of_an_edge_is_measured_in_pixels():
    edge = Image.fromarray(np.where(np.arange(256) < 128, 40, 200).astype(np.uint8)[None].repeat(256, axis=0))
    assert [blur_of(blurred(edge.convert("RGB"), radius, 0)) for radius in (1, 2, 4)] == pytest.approx(
        [1, 2, 4], rel=0.15
    )


def test_compression_does_not_sharpen_a_blurred_photograph(photographs):
    image = photographs[0]
    assert blur_of(compressed(blurred(image, 5, 0), 60)) > BLURRED


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera"])
def test_a_sharp_subject_in_front_of_a_blurred_background_is_sharp(name):
    assert blur_of(focused(photograph(name), share=0.1)) < BLURRED


def test_a_smooth_sky_above_a_sharp_horizon_is_sharp():
    rows = np.linspace(90, 220, 512)[:, None].repeat(512, axis=1)
    rows[400:] = photograph("grass").convert("L").resize((512, 112))
    assert blur_of(Image.fromarray(rows.astype(np.uint8)).convert("RGB")) < BLURRED


@pytest.mark.parametrize("size", [(16, 16), (16, 128), (512, 512)])
def test_images_without_edges_have_no_blur(size):
    assert blur_of(solid_image(*size)) is None
    assert blur_of(noisy_image(*size)) is None
    assert blur_of(Image.linear_gradient("L").resize(size).convert("RGB")) is None
