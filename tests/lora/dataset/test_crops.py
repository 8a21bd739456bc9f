"""An image is trained whole and in crops that are nearly whole, the same ones each time."""

import itertools

import numpy as np
import pytest
import skimage.data
from PIL import Image

from lora.dataset.crops import LARGEST_CROP, SMALLEST_CROP, Crop, crops_of, seen
from lora.dataset.inspection import Inspector
from lora.images.size import Size, fit
from tests.tiny import encoded, noisy_image, read_archive, tiny_pipeline, write, zipped

BOX = (10.0, 20.0, 310.0, 220.0)
SIZE = Size(96, 64)


def crops(content, *, count=200, box=BOX):
    return [seen(box, Crop(SIZE, number), content=content) for number in range(1, count + 1)]


def test_the_first_view_is_the_whole_image():
    assert crops_of([SIZE, Size(192, 128)], count=2) == tuple(
        Crop(size, number) for size in (SIZE, Size(192, 128)) for number in (0, 1)
    )
    assert seen(BOX, Crop(SIZE, 0), content="a") == BOX


def test_a_crop_lies_within_the_image_keeps_its_shape_and_nearly_all_of_it():
    for left, top, right, bottom in crops("a"):
        assert BOX[0] <= left < right <= BOX[2] + 1e-9
        assert BOX[1] <= top < bottom <= BOX[3] + 1e-9
        assert (right - left) / (bottom - top) == pytest.approx(300 / 200)
        assert SMALLEST_CROP * 300 <= right - left <= LARGEST_CROP * 300


def test_crops_are_spread_over_all_that_they_can_be():
    shares = [(right - left) / 300 for left, _, right, _ in crops("a")]
    assert min(shares) < SMALLEST_CROP + 0.005
    assert max(shares) > LARGEST_CROP - 0.005
    room = [(left - BOX[0]) / (300 - (right - left)) for left, _, right, _ in crops("a")]
    assert min(room) < 0.05
    assert max(room) > 0.95


def test_the_crops_of_an_image_are_its_own_and_always_the_same():
    assert crops("a") == crops("a")
    assert crops("a") != crops("b")


def test_all_views_of_an_image_are_encoded_and_differ(tmp_path):
    archive = write(tmp_path / "a.zip", zipped({"a.png": encoded(noisy_image(100, 100))}))
    found = read_archive(archive, into=tmp_path / "into", views=3)
    examples = found.encoded(tiny_pipeline()).examples
    assert len(examples) == 3
    assert len({example.content for example in examples}) == 1
    assert all((one.latents != other.latents).any() for one, other in itertools.pairwise(examples))


def test_a_crop_shows_that_part_of_the_image(tmp_path):
    image = Image.fromarray(skimage.data.retina()).crop((300, 300, 940, 780))
    path = write(tmp_path / "a.png", encoded(image))
    inspector = Inspector((128,), None, views=2)
    look = inspector.look(path)
    whole, crop = (pixels.astype(int) for pixels in inspector.pixels(path, look.content, look.views))
    box = seen((0.0, 0.0, 640.0, 480.0), look.views[1], content=look.content)
    expected = np.asarray(fit(image, look.views[1].size, box), dtype=int)
    assert np.abs(crop - expected).mean() < 1
    assert np.abs(crop - whole).mean() > 2
