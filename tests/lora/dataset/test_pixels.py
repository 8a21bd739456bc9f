"""Crops are stored as long as there is space, and read back bit for bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lora.dataset import pixels
from lora.dataset.crops import Crop
from lora.dataset.pixels import PixelStore
from lora.images.size import Size
from tests.tiny import noisy_image

CROP = Crop(Size(96, 80), 0)
BYTES = 96 * 80 * 3


def are_stored(store, *contents, crop=CROP):
    return [store.get(content, crop) is not None for content in contents]


def test_stored_pixels_are_read_back_bit_for_bit(tmp_path):
    store, image = PixelStore(tmp_path / "pixels"), noisy_image()
    store.put("a", CROP, image)
    assert np.array_equal(store.get("a", CROP), np.asarray(image))


def test_pixels_that_were_not_stored_are_missing(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    store.put("a", CROP, noisy_image())
    assert are_stored(store, "b") == are_stored(store, "a", crop=Crop(Size(80, 96), 0)) == [False]


def test_each_crop_of_an_image_is_stored(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    crops = [CROP, Crop(CROP.size, 1), Crop(Size(48, 32), 0)]
    images = {crop: noisy_image(crop.size.width, crop.size.height, seed=seed) for seed, crop in enumerate(crops)}
    for crop, image in images.items():
        store.put("a", crop, image)
    for crop, image in images.items():
        assert np.array_equal(store.get("a", crop), np.asarray(image))


def test_pixels_beyond_the_limit_are_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 2 * BYTES)
    store = PixelStore(tmp_path / "pixels")
    for content in ("a", "b", "c"):
        store.put(content, CROP, noisy_image())
    assert are_stored(store, "a", "b", "c") == [True, True, False]


def test_a_smaller_image_can_use_the_remaining_space(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 2 * BYTES - 1)
    store = PixelStore(tmp_path / "pixels")
    store.put("a", CROP, noisy_image())
    store.put("b", CROP, noisy_image())
    store.put("c", Crop(Size(16, 16), 0), noisy_image(16, 16))
    assert are_stored(store, "a", "b") + are_stored(store, "c", crop=Crop(Size(16, 16), 0)) == [True, False, True]


def test_a_copy_takes_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 2 * BYTES)
    store = PixelStore(tmp_path / "pixels")
    for content in ("a", "a", "a", "b"):
        store.put(content, CROP, noisy_image())
    assert are_stored(store, "a", "b") == [True, True]


def test_nothing_is_stored_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "SHARE_OF_DISK", 0)
    store = PixelStore(tmp_path / "pixels")
    store.put("a", CROP, noisy_image())
    assert are_stored(store, "a") == [False]
    assert list((tmp_path / "pixels").iterdir()) == []


def test_concurrent_threads_do_not_exceed_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 10 * BYTES)
    store, image = PixelStore(tmp_path / "pixels"), noisy_image()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: store.put(str(number % 50), CROP, image), range(200)))
    files = list((tmp_path / "pixels").iterdir())
    assert [file.stat().st_size for file in files] == [BYTES] * 10


def test_incompletely_written_pixels_are_missing(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    store.put("a", CROP, noisy_image())
    (file,) = (tmp_path / "pixels").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert store.get("a", CROP) is None


def test_pixels_are_not_stored_if_the_disk_has_too_little_space(tmp_path, monkeypatch):
    """Some space stays free for other programs."""
    store = PixelStore(tmp_path / "pixels")
    monkeypatch.setattr(pixels, "DISK_TO_SPARE", 2**62)
    store.put("a", CROP, noisy_image())
    assert are_stored(store, "a") == [False]


def test_an_existing_folder_is_refused(tmp_path):
    PixelStore(tmp_path / "pixels")
    with pytest.raises(FileExistsError):
        PixelStore(tmp_path / "pixels")
