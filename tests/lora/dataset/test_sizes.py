"""The size that an image is trained at, for any image and any resolution."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.dataset.images import LONGEST_RATIO, SHORTEST_SIDE
from lora.dataset.sizes import MOST_UPSCALING, STEP, Size, fit, training_size
from tests.tiny import picture

resolutions = st.integers(64, 2048)
steadily = settings(deadline=None, derandomize=True, database=None)  # the same sizes on every machine, however slow


@st.composite
def originals(draw):
    """Every size that an image is accepted at."""
    short = draw(st.integers(SHORTEST_SIDE, 4096))
    long = draw(st.integers(short, short * LONGEST_RATIO))
    return Size(*draw(st.permutations((short, long))))


def cover_scale(original, size):
    """How much a picture is scaled so that it covers a size."""
    return max(size.width / original.width, size.height / original.height)


@steadily
@given(originals(), resolutions)
def test_sides_are_multiples_of_16(original, resolution):
    size = training_size(original, resolution=resolution)
    assert size.width % STEP == size.height % STEP == 0
    assert min(size.width, size.height) >= STEP


@steadily
@given(originals(), resolutions)
def test_the_area_is_at_most_the_resolutions(original, resolution):
    size = training_size(original, resolution=resolution)
    assert size.width * size.height <= resolution**2


@steadily
@given(originals(), resolutions)
def test_nothing_is_enlarged_by_more_than_a_tenth(original, resolution):
    assert cover_scale(original, training_size(original, resolution=resolution)) <= MOST_UPSCALING


@steadily
@given(originals(), resolutions)
def test_less_than_one_step_of_the_shorter_side_is_cut_off(original, resolution):
    size = training_size(original, resolution=resolution)
    scales = size.width / original.width, size.height / original.height
    assert (1 - min(scales) / max(scales)) * min(size.width, size.height) < STEP


@steadily
@given(originals(), resolutions)
def test_no_resolution_is_wasted(original, resolution):
    """A size larger by a step on both sides would be too large, for the resolution or for the original."""
    size = training_size(original, resolution=resolution)
    larger = Size(size.width + STEP, size.height + STEP)
    over_area = larger.width * larger.height > resolution**2
    assert over_area or cover_scale(original, larger) > MOST_UPSCALING * 0.99


@steadily
@given(originals(), resolutions)
def test_a_picture_lying_down_is_trained_as_one_standing_up(original, resolution):
    size = training_size(original, resolution=resolution)
    turned = training_size(Size(original.height, original.width), resolution=resolution)
    assert turned == Size(size.height, size.width)


@pytest.mark.parametrize(
    ("original", "resolution", "size"),
    [
        (Size(1024, 1024), 1024, Size(1024, 1024)),
        (Size(4000, 4000), 512, Size(512, 512)),
        (Size(300, 300), 1024, Size(320, 320)),
        (Size(64, 64), 1024, Size(64, 64)),
        (Size(1920, 1080), 1024, Size(1360, 768)),
    ],
)
def test_known_sizes(original, resolution, size):
    assert training_size(original, resolution=resolution) == size


def test_a_picture_is_cut_and_never_stretched():
    image = picture(300, 100, color=(255, 255, 255))
    image.paste((200, 30, 60), (100, 0, 200, 100))  # a square in the middle
    cut = fit(image, Size(160, 80))
    assert cut.size == (160, 80)
    assert cut.getbbox() == (0, 0, 160, 80)
    reds = [x for x in range(160) if cut.getpixel((x, 40))[1] < 128]
    assert (reds[0], reds[-1]) == (40, 119)
