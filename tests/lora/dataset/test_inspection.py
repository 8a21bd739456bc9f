"""An image is inspected once; the pixels of its crops are stored, or decoded again with the same result."""

import hashlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from bench.planted import photograph
from lora.dataset.inspection import Inspector
from lora.dataset.pixels import PixelStore
from lora.images.files import open_image
from lora.images.size import Size
from script.cog_server import ROOT
from tests.tiny import encoded, noisy_image, solid_image, write

RESOLUTIONS = (128, 256, 384)
LARGE_SIDE = 9000  # 81 megapixels
MAX_BYTES_OF_TWO = 270 * 2**20  # sequentially they take 210 MiB, concurrently 320

# Two threads inspect one file; prints the memory they take in kilobytes. `getrusage` would include the parent's peak.
INSPECT_TWICE = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lora.dataset.inspection import Inspector

def peak():
    return int(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1])

inspector, before = Inspector((512,), None, crops=1), peak()
with ThreadPoolExecutor(2) as threads:
    inspections = list(threads.map(inspector.inspect, [Path(sys.argv[1])] * 2))
print(inspections[0].original, peak() - before)
"""


def photo(tmp_path, *, orientation=1, kind="JPEG"):
    image = photograph("retina").crop((0, 0, 1301, 903))
    exif = image.getexif()
    exif[0x0112] = orientation
    return write(tmp_path / "photo", encoded(image, kind, exif=exif))


def chunk(kind, data):
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def large_palette(side):
    """A square PNG with a palette of half-transparent colors."""
    deflate, row = zlib.compressobj(1), b"\0" + b"\x5a" * side
    rows = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", side, side, 8, 3, 0, 0, 0))
    colors = chunk(b"PLTE", bytes(range(256)) * 3) + chunk(b"tRNS", b"\x80" * 256)
    return b"\x89PNG\r\n\x1a\n" + header + colors + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_an_inspection_gives_content_sizes_and_kind(tmp_path):
    path = photo(tmp_path)
    inspection = Inspector(RESOLUTIONS, None, crops=1).inspect(path)
    assert inspection.content == hashlib.sha256(path.read_bytes()).hexdigest()
    assert inspection.original == Size(1301, 903)
    assert inspection.sizes == (Size(144, 96), Size(304, 208), Size(448, 304))
    assert not inspection.is_animated


def test_the_exif_orientation_is_applied_to_the_sizes(tmp_path):
    inspection = Inspector(RESOLUTIONS, None, crops=1).inspect(photo(tmp_path, orientation=6))
    assert inspection.original == Size(903, 1301)
    assert inspection.sizes == (Size(96, 144), Size(208, 304), Size(304, 448))


def test_an_animation_is_detected(tmp_path):
    frames = [noisy_image(seed=seed) for seed in range(2)]
    path = write(tmp_path / "a", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert Inspector((64,), None, crops=1).inspect(path).is_animated


def test_an_image_has_the_same_properties_in_different_formats(tmp_path):
    inspector = Inspector(RESOLUTIONS, None, crops=1)
    one, other = (inspector.inspect(photo(tmp_path, kind=kind)) for kind in ("PNG", "TIFF"))
    assert one.content != other.content
    assert (one.thumbnail, one.blur, one.tones) == (other.thumbnail, other.blur, other.tones)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("crops", [1, 2])
def test_stored_pixels_equal_pixels_that_are_decoded_again(tmp_path, kind, orientation, crops):
    path, store = photo(tmp_path, orientation=orientation, kind=kind), PixelStore(tmp_path / "pixels")
    inspector = Inspector(RESOLUTIONS, store, crops=crops)
    inspection = inspector.inspect(path)
    content = inspection.content
    assert len(inspection.sizes) == 3
    assert len(inspection.crops) == 3 * crops
    for crop in inspection.crops:
        stored = store.get(content, crop)
        assert stored.shape == (crop.size.height, crop.size.width, 3)
        assert np.array_equal(stored, inspector.pixels(path, content, [crop])[0])
        assert np.array_equal(stored, Inspector(RESOLUTIONS, None, crops=crops).pixels(path, content, [crop])[0])


def test_pixels_are_as_accurate_as_those_of_the_image_at_full_size(tmp_path):
    path, inspector = photo(tmp_path, kind="PNG"), Inspector(RESOLUTIONS, None, crops=1)
    whole, inspection = open_image(path), inspector.inspect(path)
    for crop in inspection.crops:
        pixels = inspector.pixels(path, inspection.content, [crop])[0].astype(int)
        assert np.abs(pixels - np.asarray(whole.fitted(crop.size), dtype=int)).mean() < 0.5


def test_stored_pixels_do_not_need_the_file(tmp_path):
    path, inspector = photo(tmp_path), Inspector(RESOLUTIONS, PixelStore(tmp_path / "pixels"), crops=1)
    inspection = inspector.inspect(path)
    path.unlink()
    (pixels,) = inspector.pixels(path, inspection.content, inspection.crops[:1])
    assert pixels.shape == (96, 144, 3)


def test_an_image_that_is_decoded_quickly_is_not_stored(tmp_path):
    """Writing it would take longer than it saves."""
    inspector = Inspector(RESOLUTIONS, PixelStore(tmp_path / "pixels"), crops=1)
    inspector.inspect(write(tmp_path / "a", encoded(noisy_image(384, 384))))
    assert list((tmp_path / "pixels").iterdir()) == []


def test_an_unusable_image_is_refused_and_not_stored(tmp_path):
    inspector = Inspector(RESOLUTIONS, PixelStore(tmp_path / "pixels"), crops=1)
    with pytest.raises(ValueError, match="63x80 is too small"):
        inspector.inspect(write(tmp_path / "a", encoded(solid_image(63, 80))))
    assert list((tmp_path / "pixels").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status of Linux")
def test_two_large_images_are_not_in_memory_at_once(tmp_path):
    path = write(tmp_path / "large.png", large_palette(LARGE_SIDE))
    command = [sys.executable, "-W", "error", "-c", INSPECT_TWICE, path]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    original, kilobytes = output.split()
    assert original == f"{LARGE_SIDE}x{LARGE_SIDE}"
    assert LARGE_SIDE**2 < int(kilobytes) * 1024 < MAX_BYTES_OF_TWO
