"""What phones and editors store behind an image, or inside its metadata, does not make it a damaged one."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from lora.images.files import open_image
from lora.images.jpeg import count_scans
from tests.tiny import encoded, noisy_image, write

HEIC = (Path(__file__).parents[2] / "data/orientation-1.heic").read_bytes()
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
# Bytes that look like parts of an image: scans, ends of images, names in a HEIC.
LOOKALIKES = b"\xff\xda\0\x02" * 2_000 + b"\xff\xd9\xff\xd8\xffinfe\xff\xfe" * 2_000
NOISE = random.Random(0).randbytes(50_000)
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(12) + struct.pack(">I4s", 8 + len(LOOKALIKES), b"mdat") + LOOKALIKES
BEHIND = {
    "a video": VIDEO,
    "noise": NOISE,
    "zeros": bytes(1000),
    "Samsung's trailer": LOOKALIKES + b"SEFH" + NOISE[:100] + b"SEFT",
    "another image": encoded(noisy_image(seed=1), "JPEG"),
    "three bytes": b"abc",
    "an impossible box": b"\0\0\0\2abcdefgh",
    "a box with a video": struct.pack(">I4s", 8 + len(VIDEO), b"mpvd") + VIDEO,
}


def pixels(folder, content):
    return np.asarray(open_image(write(folder / "000000", content)).image)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("kind", [*KINDS, "HEIC", "progressive"])
def test_data_behind_an_image_does_not_change_it(tmp_path, kind, behind):
    if kind == "HEIC":
        content = HEIC
    elif kind == "progressive":
        content = encoded(noisy_image(), "JPEG", progressive=True)
    else:
        content = encoded(noisy_image(), kind)
    assert (pixels(tmp_path, content + BEHIND[behind]) == pixels(tmp_path, content)).all()


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xEF, 0xFE])
def test_metadata_that_looks_like_scans_is_not_counted(tmp_path, marker):
    content = encoded(noisy_image(), "JPEG")
    full = content[:2] + segment(marker, LOOKALIKES[:60_000]) * 3 + content[2:]
    assert count_scans(write(tmp_path / "a", full)) == 1
    assert (pixels(tmp_path, full) == pixels(tmp_path, content)).all()


def test_the_scans_of_a_jpeg_are_counted_up_to_its_end(tmp_path):
    for options, scans in (({}, 1), ({"progressive": True}, 10), ({"restart_marker_rows": 1}, 1)):
        content = encoded(noisy_image(), "JPEG", **options)
        assert count_scans(write(tmp_path / "a", content)) == scans
        assert count_scans(write(tmp_path / "a", content + bytes(9) + content)) == scans


def test_fill_bytes_may_precede_a_marker(tmp_path):
    content = encoded(noisy_image(), "JPEG")
    assert count_scans(write(tmp_path / "a", content.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1))) == 1


def test_a_jpeg_of_only_segments_is_refused_quickly(tmp_path):
    content = encoded(noisy_image(), "JPEG")
    path = write(tmp_path / "a", content[:-2] + segment(0xFE, b"") * 200_000 + content[-2:])
    with pytest.raises(ValueError, match="more than 100,000 segments"):
        count_scans(path)


@pytest.mark.parametrize("entries", [0, 2, 500])
@pytest.mark.parametrize(("offset", "size"), [(10**8, 1000), (0, 0), (2**32 - 1, 2**32 - 1)])
@pytest.mark.parametrize("missing", [0, 7])
def test_a_stale_index_of_further_images_is_ignored(tmp_path, entries, offset, size, missing):
    """Editors keep the index (CIPA DC-007) and drop or move the gain map or the preview that it points to."""

    def tag(number, kind, count, value):
        return struct.pack("<HHI", number, kind, count) + value

    directory = (
        struct.pack("<H", 3) + tag(0xB000, 7, 4, b"0100") + tag(0xB001, 4, 1, struct.pack("<I", entries + missing))
    )
    directory += tag(0xB002, 7, 16 * entries, struct.pack("<I", 8 + 2 + 36 + 4)) + bytes(4)
    listed = struct.pack("<IIIHH", 0, size, offset, 0, 0) * entries
    index = segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + directory + listed)
    content = encoded(noisy_image(), "JPEG")
    assert (pixels(tmp_path, content[:2] + index + content[2:] + VIDEO) == pixels(tmp_path, content)).all()
