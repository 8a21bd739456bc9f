"""Copies of a picture are alike, other pictures are not; photographs in focus are sharp, and blurred ones are not."""

import io
import random
import zipfile

import numpy as np
import pytest
import skimage
from PIL import Image, ImageEnhance, ImageFilter

from lora.dataset.advice import BLURRED
from lora.dataset.likeness import likeness, look_alikes, sharpness
from lora.dataset.sizes import training_size
from lora.pictures.size import Size, fit
from script.tiny_flux.monster import PARTS, draw_parts
from script.tiny_flux.world import BACKGROUNDS, draw_background
from tests.tiny import encoded, noisy_picture, picture

PHOTOS = ("chelsea", "astronaut", "coffee", "rocket", "retina", "camera", "coins", "immunohistochemistry")


def photo(name, *, resolution=512):
    """A photograph at its training size."""
    image = Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")
    return fit(image, training_size(Size(*image.size), resolution=resolution))


def compressed(image, quality):
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


def groups(*pictures):
    return look_alikes([likeness(each) for each in pictures])


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
def test_a_copy_is_alike(name, copied):
    image = photo(name)
    assert groups(image, copied(image)) == [[0, 1]]


def test_photographs_are_not_alike():
    assert groups(*map(photo, PHOTOS)) == []


def monster(background, rng):
    """The demo's monster somewhere in an image, larger or smaller."""
    canvas = draw_background(background, width=128, height=128, rng=rng)
    radius = canvas.width * rng.uniform(0.26, 0.31)
    centre = (canvas.width * rng.uniform(0.42, 0.58), canvas.width * rng.uniform(0.42, 0.58))
    draw_parts(canvas, PARTS, centre=centre, radius=radius)
    return canvas.resize((128, 128), Image.Resampling.BOX)


def test_images_of_one_subject_at_several_places_are_not_alike():
    rng = random.Random(7)
    assert groups(*(monster(background, rng) for _ in range(3) for background in BACKGROUNDS)) == []


def test_images_of_the_demo_are_alike_where_they_have_one_background(monster_zip):
    """Its monster moves little, which is worth a look in a data set of one's own."""
    with zipfile.ZipFile(monster_zip) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        pictures = [Image.open(archive.open(name)).convert("RGB") for name in names]
    assert [1, 6, 11] in groups(*pictures), "those on a black background"


@pytest.mark.parametrize(
    "turn", [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180], ids=lambda turn: turn.name
)
def test_a_picture_the_other_way_round_is_another(turn):
    image = photo("chelsea")
    assert groups(image, image.transpose(turn)) == []


def test_another_part_of_a_photograph_is_another_picture():
    image = photo("chelsea")
    assert groups(image.crop((0, 0, 256, 256)), image.crop((100, 0, 356, 256))) == []


def test_pictures_of_one_color_are_alike_where_the_color_is():
    assert groups(*(picture(color=(level, 0, 0)) for level in (0, 5, 100, 104, 255))) == [[0, 1], [2, 3]]


def test_each_picture_is_in_one_group():
    first, second = photo("coffee"), photo("rocket")
    assert groups(first, second, first, photo("coins"), second, first) == [[0, 2, 5], [1, 4]]


def test_of_no_pictures_none_are_alike():
    assert groups() == []
    assert groups(picture()) == []


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("resolution", [512, 1024])
def test_a_photograph_in_focus_is_sharp(name, resolution):
    assert sharpness(photo(name, resolution=resolution)) > 3 * BLURRED


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("radius", [4, 6, 10])
def test_a_photograph_that_is_blurred_is_not(name, radius):
    blurred = photo(name).filter(ImageFilter.GaussianBlur(radius))
    assert 0 < sharpness(blurred) < BLURRED
    assert 0 < sharpness(compressed(blurred, 90)) < BLURRED


def test_a_portrait_before_a_blurred_background_is_sharp():
    image = photo("astronaut")
    background = image.filter(ImageFilter.GaussianBlur(8))
    background.paste(image.crop((150, 0, 330, 200)), (150, 0))
    assert sharpness(background) > BLURRED


def test_a_picture_of_one_color_is_neither():
    assert sharpness(picture()) == 0


@pytest.mark.parametrize("size", [(16, 16), (16, 128), (128, 16)])
def test_the_smallest_pictures_can_be_told_apart(size):
    first, second = noisy_picture(*size), noisy_picture(*size, seed=1)
    assert groups(first, second, first) == [[0, 2]]
    assert sharpness(first) > BLURRED
