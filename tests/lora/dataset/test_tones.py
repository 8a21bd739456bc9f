"""Images of one color and faded ones are told from photographs."""

import pytest

from bench.planted import EMPTY, PHOTOGRAPHS, faded, noisy, photograph
from lora.dataset.tones import Tones
from tests.tiny import solid_image


@pytest.mark.parametrize("name", EMPTY)
def test_an_image_of_one_color_is_empty_whatever_its_noise(name):
    expected = next((color for color in ("black", "white") if name.startswith(color)), "of one color")
    assert Tones.of(EMPTY[name]).fault() == expected


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_faded_only_without_its_contrast(name):
    image = photograph(name)
    assert Tones.of(image).fault() is None
    assert Tones.of(faded(image, 0.2)).fault() == "faded"


def test_a_small_thing_in_front_of_a_plain_background_is_not_empty():
    image = solid_image(512, 512, color="white")
    image.paste("navy", (200, 200, 260, 260))
    assert Tones.of(noisy(image, 3)).fault() is None


def test_colors_of_the_same_brightness_are_contrast():
    image = solid_image(128, 128, color=(200, 0, 0))
    image.paste((0, 102, 0), (0, 0, 64, 128))
    assert Tones.of(image).fault() is None
