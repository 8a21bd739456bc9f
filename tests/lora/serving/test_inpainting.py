"""Inpainting: whole latents are regenerated, and the source is pasted back with a feathered edge."""

import numpy as np
import pytest
from PIL import Image

from lora.serving.inpainting import Inpainting
from tests.tiny import noisy_image, solid_image


def spot(*box, size=(96, 64)):
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def opacity(mask, *, original_size=None):
    return np.asarray(
        Inpainting.of(Image.new("RGB", original_size or mask.size), mask, latent_pixels=8).opacity, dtype=int
    )


@pytest.mark.parametrize(("x", "y"), [(16, 8), (23, 8), (16, 15), (23, 15), (19, 12)])
def test_a_latent_with_one_white_pixel_is_regenerated_and_no_other(x, y):
    mask = Inpainting.of(Image.new("RGB", (96, 64)), spot(x, y, x + 1, y + 1), latent_pixels=8).latent_mask()
    assert mask.tobytes() == spot(16, 8, 24, 16).tobytes()


def test_all_of_the_mask_shows_the_generated_image_alone():
    mask = spot(40, 30, 41, 31)
    mask.paste(255, (0, 0, 9, 50))
    assert (opacity(mask)[np.asarray(mask) > 0] == 255).all()


def test_the_feather_falls_linearly_to_0_within_16_pixels_outside_of_the_mask():
    across = opacity(spot(0, 0, 40, 64))[32]
    fall = across[39:58]
    assert fall[0] == 255
    assert np.abs(np.diff(fall[:18]) + 15).max() <= 1
    assert fall[16] > 0
    assert not across[56:].any()


@pytest.mark.parametrize("size", [(96, 64), (100, 70), (480, 320)])
def test_the_result_has_the_pixels_of_the_original_away_from_the_mask_in_its_own_size(size):
    original, generated = noisy_image(*size), solid_image(96, 64)
    composed = Inpainting.of(original, spot(0, 0, 30, 64), latent_pixels=8).compose(generated)
    assert composed.size == size
    kept, regenerated = np.s_[:, size[0] * 48 // 96 + 2 :], np.s_[:, : size[0] * 29 // 96]
    assert np.array_equal(np.asarray(composed)[kept], np.asarray(original)[kept])
    assert (np.asarray(composed)[regenerated] == np.asarray(generated)[0, 0]).all()


def test_only_a_mask_without_any_white_pixel_is_black():
    assert Inpainting.of(Image.new("RGB", (96, 64)), spot(0, 0, 0, 0), latent_pixels=8).is_black
    assert not Inpainting.of(Image.new("RGB", (96, 64)), spot(95, 63, 96, 64), latent_pixels=8).is_black
