"""An image is trained as a whole and in crops of nearly the whole image, which are always the same."""

import itertools

import numpy as np
import pytest

from bench.planted import photograph
from lora.dataset.crops import LARGEST_CROP, SMALLEST_CROP, Crop, crop_box, crops_of
from lora.dataset.inspection import Inspector
from lora.images.size import Size, fit
from tests.tiny import encoded, noisy_image, read_archive, tiny_pipeline, write, zipped

BOX = (10.0, 20.0, 310.0, 220.0)
SIZE = Size(96, 64)


def boxes(content, *, count=200, box=BOX):
    return [crop_box(box, Crop(SIZE, number), content=content) for number in range(1, count + 1)]


def test_the_first_crop_is_the_whole_image():
    assert crops_of([SIZE, Size(192, 128)], count=2) == tuple(
        Crop(size, number) for size in (SIZE, Size(192, 128)) for number in (0, 1)
    )
    assert crop_box(BOX, Crop(SIZE, 0), content="a") == BOX


def test_a_crop_has_the_aspect_ratio_of_the_image_and_covers_nearly_all_of_it():
    for left, top, right, bottom in boxes("a"):
        assert BOX[0] <= left < right <= BOX[2] + 1e-9
        assert BOX[1] <= top < bottom <= BOX[3] + 1e-9
        assert (right - left) / (bottom - top) == pytest.approx(300 / 200)
        assert SMALLEST_CROP * 300 <= right - left <= LARGEST_CROP * 300


def test_crops_vary_over_the_full_range_of_sizes_and_positions():
    shares = [(right - left) / 300 for left, _, right, _ in boxes("a")]
    assert min(shares) < SMALLEST_CROP + 0.005
    assert max(shares) > LARGEST_CROP - 0.005
    positions = [(left - BOX[0]) / (300 - (right - left)) for left, _, right, _ in boxes("a")]
    assert min(positions) < 0.05
    assert max(positions) > 0.95


def test_the_crops_depend_on_the_image_and_are_always_the_same():
    assert boxes("a") == boxes("a")
    assert boxes("a") != boxes("b")


def test_all_crops_of_an_image_are_encoded_and_differ(tmp_path):
    archive = write(tmp_path / "a.zip", zipped({"a.png": encoded(noisy_image(100, 100))}))
    found = read_archive(archive, into=tmp_path / "into", crops=3)
    examples = found.encoded(tiny_pipeline()).examples
    assert len(examples) == 3
    assert len({example.content for example in examples}) == 1
    assert all((one.latents != other.latents).any() for one, other in itertools.pairwise(examples))


def test_the_pixels_of_a_crop_are_those_of_its_box(tmp_path):
    image = photograph("retina").crop((300, 300, 940, 780))
    path = write(tmp_path / "a.png", encoded(image))
    inspector = Inspector((128,), None, crops=2)
    inspection = inspector.inspect(path)
    whole, crop = (pixels.astype(int) for pixels in inspector.pixels(path, inspection.content, inspection.crops))
    box = crop_box((0.0, 0.0, 640.0, 480.0), inspection.crops[1], content=inspection.content)
    expected = np.asarray(fit(image, inspection.crops[1].size, box), dtype=int)
    assert np.abs(crop - expected).mean() < 1
    assert np.abs(crop - whole).mean() > 2
