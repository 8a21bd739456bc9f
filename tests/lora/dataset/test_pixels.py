"""Fitted pictures are kept as long as there is room, and come back bit for bit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lora.dataset import pixels
from lora.dataset.crops import Crop
from lora.dataset.pixels import PixelStore
from lora.images.size import Size
from tests.tiny import noisy_image

VIEW = Crop(Size(96, 80), 0)
BYTES = 96 * 80 * 3


def kept(store, *contents, view=VIEW):
    return [store.get(content, view) is not None for content in contents]


def test_what_is_kept_comes_back_bit_for_bit(tmp_path):
    store, picture = PixelStore(tmp_path / "pixels"), noisy_image()
    store.put("a", VIEW, picture)
    assert np.array_equal(store.get("a", VIEW), np.asarray(picture))


def test_what_was_never_kept_is_not_there(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    store.put("a", VIEW, noisy_image())
    assert kept(store, "b") == kept(store, "a", view=Crop(Size(80, 96), 0)) == [False]


def test_an_image_is_kept_in_each_of_its_views(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    views = [VIEW, Crop(VIEW.size, 1), Crop(Size(48, 32), 0)]
    pictures = {view: noisy_image(view.size.width, view.size.height, seed=seed) for seed, view in enumerate(views)}
    for view, picture in pictures.items():
        store.put("a", view, picture)
    for view, picture in pictures.items():
        assert np.array_equal(store.get("a", view), np.asarray(picture))


def test_what_there_is_no_room_for_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_BYTES", 2 * BYTES)
    store = PixelStore(tmp_path / "pixels")
    for content in ("a", "b", "c"):
        store.put(content, VIEW, noisy_image())
    assert kept(store, "a", "b", "c") == [True, True, False]


def test_a_smaller_picture_may_take_the_room_that_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_BYTES", 2 * BYTES - 1)
    store = PixelStore(tmp_path / "pixels")
    store.put("a", VIEW, noisy_image())
    store.put("b", VIEW, noisy_image())
    store.put("c", Crop(Size(16, 16), 0), noisy_image(16, 16))
    assert kept(store, "a", "b") + kept(store, "c", view=Crop(Size(16, 16), 0)) == [True, False, True]


def test_a_copy_takes_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_BYTES", 2 * BYTES)
    store = PixelStore(tmp_path / "pixels")
    for content in ("a", "a", "a", "b"):
        store.put(content, VIEW, noisy_image())
    assert kept(store, "a", "b") == [True, True]


def test_a_full_disk_leaves_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "SHARE_OF_DISK", 0)
    store = PixelStore(tmp_path / "pixels")
    store.put("a", VIEW, noisy_image())
    assert kept(store, "a") == [False]
    assert list((tmp_path / "pixels").iterdir()) == []


def test_threads_together_keep_no_more_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_BYTES", 10 * BYTES)
    store, picture = PixelStore(tmp_path / "pixels"), noisy_image()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: store.put(str(number % 50), VIEW, picture), range(200)))
    files = list((tmp_path / "pixels").iterdir())
    assert [file.stat().st_size for file in files] == [BYTES] * 10


def test_pixels_that_were_not_written_to_their_end_are_not_there(tmp_path):
    store = PixelStore(tmp_path / "pixels")
    store.put("a", VIEW, noisy_image())
    (file,) = (tmp_path / "pixels").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert store.get("a", VIEW) is None


def test_what_the_disk_has_no_more_room_for_is_not_kept(tmp_path, monkeypatch):
    """Some of it stays free for the rest of the machine."""
    store = PixelStore(tmp_path / "pixels")
    monkeypatch.setattr(pixels, "DISK_TO_SPARE", 2**62)
    store.put("a", VIEW, noisy_image())
    assert kept(store, "a") == [False]


def test_nobody_elses_folder_is_taken(tmp_path):
    PixelStore(tmp_path / "pixels")
    with pytest.raises(FileExistsError):
        PixelStore(tmp_path / "pixels")
