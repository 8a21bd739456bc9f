"""Copies of an image are near-duplicates, however they were changed; other images are not."""

import random
import zipfile

import numpy as np
import pytest
from PIL import Image

from bench.planted import COPIES, FILES, PHOTOGRAPHS, cropped, mirrored, photograph
from lora.dataset.similarity import near_duplicates
from lora.dataset.thumbnails import Thumbnail
from script.tiny_flux.monster import PARTS, draw_parts
from script.tiny_flux.world import BACKGROUNDS, render_background
from tests.tiny import noisy_image, solid_image


@pytest.fixture(scope="module")
def photographs():
    return [photograph(name) for name in PHOTOGRAPHS]


def groups(*images):
    return near_duplicates([Thumbnail.of(each) for each in images])


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_a_near_duplicate_of_its_photograph_alone(photographs, change):
    count, small = len(photographs), [image.resize((256, 256 * image.height // image.width)) for image in photographs]
    found = groups(*small, *map(COPIES[change], small))
    assert all(group == [group[0], group[0] + count] for group in found)
    assert len(found) >= (10 if change == "rotated by 2°" else 12), "a star field has nothing to be aligned by"


def test_two_crops_of_a_photograph_are_near_duplicates(photographs):
    shown = [photographs[PHOTOGRAPHS.index(name)] for name in ("astronaut", "coffee", "rocket")]
    corners = [[cropped(image, 0.95, left=at, top=at) for image in shown] for at in (0, 1)]
    assert groups(*corners[0], *corners[1]) == [[0, 3], [1, 4], [2, 5]]


def test_different_photographs_are_not_duplicates(photographs):
    assert groups(*photographs) == []


def test_different_faces_in_the_same_place_are_not_duplicates():
    faces = (np.load(FILES / "lfw_subset.npy")[:30] * 255).astype(np.uint8)
    assert groups(*(Image.fromarray(face).convert("RGB") for face in faces)) == []


def with_stripe(image):
    """The image with a white stripe, as of a caption."""
    striped = image.resize((256, 256))
    striped.paste((255, 255, 255), (0, 230, 256, 256))
    return striped


def test_photographs_with_the_same_frame_are_not_duplicates(photographs):
    assert groups(*map(with_stripe, photographs)) == []


def test_a_thing_in_another_color_is_not_a_duplicate():
    """Or shoes in all colors would be said to be the same."""

    def ball(color):
        image = Image.linear_gradient("L").convert("RGB")
        image.paste(
            color, (60, 60, 200, 200), Image.radial_gradient("L").point(lambda level: 255 - level).resize((140, 140))
        )
        return image

    assert groups(ball("red"), ball("green"), ball("blue")) == []


def monster(background, rng):
    """The monster of the demo, with random position and size."""
    canvas = render_background(background, width=128, height=128, rng=rng)
    radius = canvas.width * rng.uniform(0.26, 0.31)
    center = (canvas.width * rng.uniform(0.42, 0.58), canvas.width * rng.uniform(0.42, 0.58))
    draw_parts(canvas, PARTS, centre=center, radius=radius)
    return canvas.resize((128, 128), Image.Resampling.BOX)


def test_one_subject_in_front_of_different_backgrounds_is_no_duplicate():
    rng = random.Random(7)
    assert groups(*(monster(background, rng) for background in BACKGROUNDS if background != "night")) == []


def test_images_of_the_demo_with_one_background_are_near_duplicates(monster_zip):
    """The monster hardly moves between them, which deserves a warning in a user's data set."""
    with zipfile.ZipFile(monster_zip) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        images = [Image.open(archive.open(name)).convert("RGB") for name in names]
    assert any({1, 6, 11} <= set(group) for group in groups(*images)), "those on a black background"


@pytest.mark.parametrize("transpose", [Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180])
def test_an_image_upside_down_is_not_a_duplicate(transpose, photographs):
    image = photographs[PHOTOGRAPHS.index("chelsea")]
    assert groups(image, image.transpose(transpose)) == []


def test_crops_that_share_little_are_not_duplicates(photographs):
    image = photographs[PHOTOGRAPHS.index("chelsea")]
    assert groups(image.crop((0, 0, 256, 256)), image.crop((150, 0, 406, 256))) == []


def test_images_without_structure_are_no_duplicates():
    """They are reported as images of one color."""
    assert groups(*(solid_image(color=(level, 0, 0)) for level in (0, 0, 5))) == []


def test_each_image_is_in_one_group(photographs):
    first, second, other = photographs[:3]
    assert groups(first, second, mirrored(first), other, second, first) == [[0, 2, 5], [1, 4]]


def test_no_image_and_a_single_image_form_no_group():
    assert groups() == []
    assert groups(solid_image()) == []


@pytest.mark.parametrize("size", [(16, 16), (16, 128), (128, 16)])
def test_very_small_images_can_be_distinguished(size):
    first, second = noisy_image(*size), noisy_image(*size, seed=1)
    assert groups(first, second, first) == [[0, 2]]
