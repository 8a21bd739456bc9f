"""Copies of an image are near-duplicates and other images are not; photographs in focus are sharp, others are not."""

import io
import random
import zipfile

import numpy as np
import pytest
import skimage
from PIL import Image, ImageEnhance, ImageFilter

from lora.dataset.advice import BLURRED
from lora.dataset.similarity import near_duplicates, perceptual_hash, sharpness
from lora.dataset.sizes import training_size
from lora.images.size import Size, fit
from script.tiny_flux.monster import PARTS, draw_parts
from script.tiny_flux.world import BACKGROUNDS, render_background
from tests.tiny import encoded, noisy_image, solid_image

PHOTOS = ("chelsea", "astronaut", "coffee", "rocket", "retina", "camera", "coins", "immunohistochemistry")


def photo(name, *, resolution=512):
    """A photograph at its training size."""
    image = Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")
    return fit(image, training_size(Size(*image.size), resolution=resolution))


def compressed(image, quality):
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def groups(*images):
    return near_duplicates([perceptual_hash(each) for each in images])


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize(
    "copied",
    [
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2)),
        lambda image: compressed(image, 30),
        lambda image: compressed(image.resize((image.width * 2 // 3, image.height * 2 // 3)), 60),
        lambda image: ImageEnhance.Brightness(image).enhance(1.04),
    ],
    ids=["half", "larger", "compressed", "half, compressed", "brighter"],
)
def test_a_copy_is_a_near_duplicate(name, copied):
    image = photo(name)
    assert groups(image, copied(image)) == [[0, 1]]


def test_different_photographs_are_not_duplicates():
    assert groups(*map(photo, PHOTOS)) == []


def monster(background, rng):
    """The monster of the demo, with random position and size."""
    canvas = render_background(background, width=128, height=128, rng=rng)
    radius = canvas.width * rng.uniform(0.26, 0.31)
    center = (canvas.width * rng.uniform(0.42, 0.58), canvas.width * rng.uniform(0.42, 0.58))
    draw_parts(canvas, PARTS, centre=center, radius=radius)
    return canvas.resize((128, 128), Image.Resampling.BOX)


def test_images_of_one_subject_at_different_positions_are_not_duplicates():
    rng = random.Random(7)
    assert groups(*(monster(background, rng) for _ in range(3) for background in BACKGROUNDS)) == []


def test_images_of_the_demo_with_one_background_are_near_duplicates(monster_zip):
    """The monster hardly moves between them, which deserves a warning in a user's data set."""
    with zipfile.ZipFile(monster_zip) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        images = [Image.open(archive.open(name)).convert("RGB") for name in names]
    assert [1, 6, 11] in groups(*images), "those on a black background"


@pytest.mark.parametrize(
    "transpose", [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180], ids=lambda transpose: transpose.name
)
def test_a_flipped_or_rotated_image_is_not_a_duplicate(transpose):
    image = photo("chelsea")
    assert groups(image, image.transpose(transpose)) == []


def test_different_crops_of_a_photograph_are_not_duplicates():
    image = photo("chelsea")
    assert groups(image.crop((0, 0, 256, 256)), image.crop((100, 0, 356, 256))) == []


def test_solid_images_of_similar_colors_are_near_duplicates():
    assert groups(*(solid_image(color=(level, 0, 0)) for level in (0, 5, 100, 104, 255))) == [[0, 1], [2, 3]]


def test_each_image_is_in_one_group():
    first, second = photo("coffee"), photo("rocket")
    assert groups(first, second, first, photo("coins"), second, first) == [[0, 2, 5], [1, 4]]


def test_no_image_and_a_single_image_form_no_group():
    assert groups() == []
    assert groups(solid_image()) == []


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("resolution", [512, 1024])
def test_a_photograph_in_focus_is_sharp(name, resolution):
    assert sharpness(photo(name, resolution=resolution)) > 3 * BLURRED


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("radius", [4, 6, 10])
def test_a_blurred_photograph_is_not_sharp(name, radius):
    blurred = photo(name).filter(ImageFilter.GaussianBlur(radius))
    assert 0 < sharpness(blurred) < BLURRED
    assert 0 < sharpness(compressed(blurred, 90)) < BLURRED


def test_a_portrait_with_a_blurred_background_is_sharp():
    image = photo("astronaut")
    background = image.filter(ImageFilter.GaussianBlur(8))
    background.paste(image.crop((150, 0, 330, 200)), (150, 0))
    assert sharpness(background) > BLURRED


def test_an_image_of_one_color_has_no_sharpness():
    assert sharpness(solid_image()) == 0


@pytest.mark.parametrize("size", [(16, 16), (16, 128), (128, 16)])
def test_very_small_images_can_be_distinguished(size):
    first, second = noisy_image(*size), noisy_image(*size, seed=1)
    assert groups(first, second, first) == [[0, 2]]
    assert sharpness(first) > BLURRED
