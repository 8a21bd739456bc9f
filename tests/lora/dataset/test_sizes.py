"""The training sizes of images, for any image and any resolution."""

import math
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora.dataset.sizes import MAX_UPSCALING, STEP, training_size, training_sizes
from lora.images.files import LONGEST_RATIO, SHORTEST_SIDE
from lora.images.size import Size, cover_scale, fit
from tests.tiny import noisy_image, solid_image

COUNT = 10_000
deterministic = settings(deadline=None, derandomize=True, database=None, max_examples=300)


@cache
def random_sizes():
    """Random images of every accepted size and aspect ratio, including extremes: (original, resolution, size)."""
    rng = random.Random(0)
    sizes = []
    for _ in range(COUNT):
        short = int(SHORTEST_SIDE * 2 ** rng.uniform(0, 7))
        ratio = rng.choice([1, rng.uniform(1, 1.1), rng.uniform(1, 2), rng.uniform(1, LONGEST_RATIO), LONGEST_RATIO])
        sides = short, int(short * ratio)
        original = Size(*rng.sample(sides, 2))
        own = math.isqrt(sides[0] * sides[1])
        resolution = rng.choice([64, 512, 768, 1024, min(int(own * MAX_UPSCALING), 2048), rng.randint(64, 2048)])
        sizes.append((original, resolution, training_size(original, resolution=resolution)))
    return sizes


def test_sides_are_multiples_of_16():
    """Trap 37; so do the next three tests."""
    assert all(size.width % STEP == size.height % STEP == 0 for _, _, size in random_sizes())
    assert all(min(size.width, size.height) >= STEP for _, _, size in random_sizes())


def test_the_area_is_at_most_that_of_the_resolution():
    assert all(size.width * size.height <= resolution**2 for _, resolution, size in random_sizes())


def test_no_image_is_enlarged_by_more_than_a_tenth():
    assert all(cover_scale(original, size) <= MAX_UPSCALING for original, _, size in random_sizes())


def test_less_than_half_a_step_is_cropped():
    for original, _, size in random_sizes():
        scale = cover_scale(original, size)
        assert max(original.width * scale - size.width, original.height * scale - size.height) < STEP / 2


def test_landscape_and_portrait_images_have_the_same_sides():
    for original, resolution, size in random_sizes():
        rotated = training_size(Size(original.height, original.width), resolution=resolution)
        assert rotated == Size(size.height, size.width)


def tokens_of_buckets(original, resolution):
    """By brute force, for a landscape image: the tokens of each allowed size, and whether it is next to the ratio."""
    ratio, most = original.width / original.height, resolution**2 // STEP**2
    for rows in range(1, math.isqrt(most) + 1):
        for columns in range(rows, most // rows + 1):
            size = Size(columns * STEP, rows * STEP)
            scale = cover_scale(original, size)
            over = max(original.width * scale - size.width, original.height * scale - size.height)
            if over < STEP / 2 and scale <= MAX_UPSCALING:
                yield columns * rows, abs(columns - rows * ratio) < 1


def test_the_size_is_the_largest_or_one_of_whole_tiles_that_costs_less_than_3_percent():
    tiles = 0
    for original, resolution, size in random_sizes()[:300]:
        is_supported = resolution**2 <= original.width * original.height * MAX_UPSCALING**2
        if is_supported and original.width >= original.height:
            allowed = set(tokens_of_buckets(original, resolution))
            largest = max(count for count, is_next in allowed if is_next)
            tiled = {count for count, _ in allowed if count % 128 == 0 and count > 0.97 * largest}
            assert size.width * size.height // STEP**2 == max(tiled, default=largest)
            tiles += len(tiled) > 0
    assert tiles > 10


def test_a_small_image_is_trained_at_nearly_its_own_size():
    small = [(o, size) for o, resolution, size in random_sizes() if resolution > math.sqrt(o.width * o.height) * 1.1]
    shares = [size.width * size.height / (original.width * original.height) for original, size in small]
    assert len(shares) > 1000
    assert min(shares) > 0.4  # for long images that are hardly 64 pixels high
    assert np.median(shares) > 0.8


@pytest.mark.parametrize(
    ("original", "resolution", "size"),
    [
        (Size(1024, 1024), 1024, Size(1024, 1024)),
        (Size(4000, 4000), 512, Size(512, 512)),
        (Size(300, 300), 1024, Size(288, 288)),
        (Size(64, 64), 1024, Size(64, 64)),
        (Size(64, 512), 64, Size(16, 128)),
        (Size(931, 931), 1024, Size(1024, 1024)),
        (Size(930, 930), 1024, Size(896, 896)),
        (Size(2521, 1137), 768, Size(1152, 512)),  # 36 * 64 tokens
    ],
    ids=str,
)
def test_training_sizes_of_common_images(original, resolution, size):
    assert training_size(original, resolution=resolution) == size


def test_an_image_has_a_size_at_every_resolution_that_it_is_large_enough_for():
    assert training_sizes(Size(4000, 4000), resolutions=(1024, 512, 768)) == [
        Size(side, side) for side in (512, 768, 1024)
    ]


def test_an_image_too_small_for_two_resolutions_is_trained_once():
    assert training_sizes(Size(600, 600), resolutions=(512, 768, 1024)) == [Size(512, 512), Size(576, 576)]
    assert training_sizes(Size(64, 64), resolutions=(512, 768, 1024)) == [Size(64, 64)]


def test_the_same_resolution_twice_is_one_size():
    assert training_sizes(Size(600, 600), resolutions=(512, 512)) == [Size(512, 512)]


def test_an_image_is_cropped_and_never_stretched():
    image = solid_image(300, 100, color=(255, 255, 255))
    image.paste((200, 30, 60), (100, 0, 200, 100))  # a square in the middle
    cut = fit(image, Size(160, 80))
    assert cut.size == (160, 80)
    assert cut.getbbox() == (0, 0, 160, 80)
    reds = [x for x in range(160) if cut.getpixel((x, 40))[1] < 128]
    assert (reds[0], reds[-1]) == (40, 119)


@pytest.mark.parametrize("size", [Size(80, 80), Size(96, 64), Size(32, 64), Size(16, 16)], ids=str)
def test_an_image_is_cropped_symmetrically(size):
    """A symmetric image stays symmetric."""
    half = noisy_image(150, 200)
    image = Image.new("RGB", (300, 200))
    image.paste(half, (0, 0))
    image.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (150, 0))
    for whole in (image, image.transpose(Image.Transpose.ROTATE_90)):
        pixels = np.asarray(fit(whole, size), dtype=int)
        mirrored = pixels[:, ::-1] if whole is image else pixels[::-1]
        assert np.abs(pixels - mirrored).max() <= 1


def test_an_image_of_the_right_size_is_unchanged():
    image = noisy_image(96, 80)
    assert fit(image, Size(96, 80)).tobytes() == image.tobytes()


def test_only_the_box_of_an_image_is_fitted_if_there_is_one():
    image = solid_image(100, 80, color=(0, 0, 0))
    image.paste((255, 255, 255), (10, 0, 90, 80))
    assert fit(image, Size(80, 80), (10.0, 0.0, 90.0, 80.0)).getextrema() == ((255, 255),) * 3


@deterministic
@given(st.integers(64, 700), st.integers(64, 700), st.integers(64, 700))
def test_every_image_fits(width, height, resolution):
    """Regardless of how its sides are rounded."""
    image = Image.new("RGB", (width, height))
    if max(width, height) <= LONGEST_RATIO * min(width, height):
        size = training_size(Size(width, height), resolution=resolution)
        assert fit(image, size).size == (size.width, size.height)
