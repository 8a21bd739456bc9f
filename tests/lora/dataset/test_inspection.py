"""An image is looked at once: what it is, what it is trained as, and its pixels, kept or made anew."""

import hashlib
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from lora.dataset.inspection import Inspector
from lora.dataset.pixels import PixelStore
from lora.images.files import open_image
from lora.images.size import Size
from script.cog_server import ROOT
from tests.tiny import encoded, noisy_image, picture, write

RESOLUTIONS = (128, 256, 384)
LARGE_SIDE = 9000  # 81 megapixels
MOST_BYTES_OF_TWO = 270 * 2**20  # one after the other take 210 MiB, both at once 320

# Two threads look at the same file; what they take is told in kilobytes. The peak in `getrusage` is the parent's too.
LOOK_AT_TWO = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lora.dataset.inspection import Inspector

def peak():
    return int(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1])

inspector, before = Inspector((512,), None, views=1), peak()
with ThreadPoolExecutor(2) as threads:
    looks = list(threads.map(inspector.look, [Path(sys.argv[1])] * 2))
print(looks[0].original, peak() - before)
"""


def photo(tmp_path, *, orientation=1, kind="JPEG"):
    image = Image.fromarray(skimage.data.retina()).crop((0, 0, 1301, 903))
    exif = image.getexif()
    exif[0x0112] = orientation
    return write(tmp_path / "photo", encoded(image, kind, exif=exif))


def chunk(kind, data):
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def large_palette(side):
    """A square PNG with a palette that is half transparent."""
    deflate, row = zlib.compressobj(1), b"\0" + b"\x5a" * side
    rows = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", side, side, 8, 3, 0, 0, 0))
    colors = chunk(b"PLTE", bytes(range(256)) * 3) + chunk(b"tRNS", b"\x80" * 256)
    return b"\x89PNG\r\n\x1a\n" + header + colors + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_look_tells_what_an_image_is(tmp_path):
    path = photo(tmp_path)
    look = Inspector(RESOLUTIONS, None, views=1).look(path)
    assert look.content == hashlib.sha256(path.read_bytes()).hexdigest()
    assert look.original == Size(1301, 903)
    assert look.sizes == (Size(144, 96), Size(304, 208), Size(448, 304))
    assert not look.is_animated


def test_a_look_at_a_picture_on_its_side_is_upright(tmp_path):
    look = Inspector(RESOLUTIONS, None, views=1).look(photo(tmp_path, orientation=6))
    assert look.original == Size(903, 1301)
    assert look.sizes == (Size(96, 144), Size(208, 304), Size(304, 448))


def test_a_look_sees_an_animation(tmp_path):
    frames = [noisy_image(seed=seed) for seed in range(2)]
    path = write(tmp_path / "a", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert Inspector((64,), None, views=1).look(path).is_animated


def test_the_same_picture_looks_the_same_in_any_file(tmp_path):
    inspector = Inspector(RESOLUTIONS, None, views=1)
    one, other = (inspector.look(photo(tmp_path, kind=kind)) for kind in ("PNG", "TIFF"))
    assert one.content != other.content
    assert (one.perceptual_hash, one.sharpness) == (other.perceptual_hash, other.sharpness)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("views", [1, 2])
def test_pixels_made_anew_are_those_that_were_kept(tmp_path, kind, orientation, views):
    path, store = photo(tmp_path, orientation=orientation, kind=kind), PixelStore(tmp_path / "pixels")
    inspector = Inspector(RESOLUTIONS, store, views=views)
    look = inspector.look(path)
    assert len(look.sizes) == 3
    assert len(look.views) == 3 * views
    for view in look.views:
        kept = store.get(look.content, view)
        assert kept.shape == (view.size.height, view.size.width, 3)
        assert np.array_equal(kept, inspector.pixels(path, look.content, [view])[0])
        assert np.array_equal(kept, Inspector(RESOLUTIONS, None, views=views).pixels(path, look.content, [view])[0])


def test_pixels_are_as_fine_as_those_of_the_whole_picture(tmp_path):
    path, inspector = photo(tmp_path, kind="PNG"), Inspector(RESOLUTIONS, None, views=1)
    whole, look = open_image(path), inspector.look(path)
    for view in look.views:
        pixels = inspector.pixels(path, look.content, [view])[0].astype(int)
        assert np.abs(pixels - np.asarray(whole.fitted(view.size), dtype=int)).mean() < 0.5


def test_pixels_that_were_kept_need_no_file(tmp_path):
    path, inspector = photo(tmp_path), Inspector(RESOLUTIONS, PixelStore(tmp_path / "pixels"), views=1)
    look = inspector.look(path)
    path.unlink()
    assert [pixels.shape for pixels in inspector.pixels(path, look.content, look.views[:1])] == [(96, 144, 3)]


def test_what_is_decoded_as_fast_as_it_is_read_is_not_kept(tmp_path):
    """Writing it takes longer than it saves."""
    inspector = Inspector(RESOLUTIONS, PixelStore(tmp_path / "pixels"), views=1)
    inspector.look(write(tmp_path / "a", encoded(noisy_image(384, 384))))
    assert list((tmp_path / "pixels").iterdir()) == []


def test_an_image_that_cannot_be_trained_is_refused_and_not_kept(tmp_path):
    inspector = Inspector(RESOLUTIONS, PixelStore(tmp_path / "pixels"), views=1)
    with pytest.raises(ValueError, match="63x80 is too small"):
        inspector.look(write(tmp_path / "a", encoded(picture(63, 80))))
    assert list((tmp_path / "pixels").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_two_large_images_are_not_in_memory_at_once(tmp_path):
    path = write(tmp_path / "large.png", large_palette(LARGE_SIDE))
    command = [sys.executable, "-W", "error", "-c", LOOK_AT_TWO, path]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    original, kilobytes = said.split()
    assert original == f"{LARGE_SIDE}x{LARGE_SIDE}"
    assert LARGE_SIDE**2 < int(kilobytes) * 1024 < MOST_BYTES_OF_TWO
