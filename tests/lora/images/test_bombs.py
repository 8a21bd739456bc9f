"""Small files that would take minutes to decode or crash the process are refused before they are decoded."""

import time

import pytest
from PIL import Image

from lora.images.files import is_image, open_image
from tests.tiny import encoded, solid_image, write

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00\x00"


def seconds_to_refuse(path):
    start = time.monotonic()
    with pytest.raises(ValueError, match="cannot be decoded"):
        open_image(path)
    return time.monotonic() - start


@pytest.mark.parametrize("size", [b"\x00\x00\x10\x00", b"\x00\xff\xff\xff", b"\x00\x00\x00\x00"])
@pytest.mark.parametrize("kind", [b"meta", b"free"])
def test_a_heic_with_a_million_names_is_refused_quickly(tmp_path, size, kind):
    names = (size + b"infe\x02\x00\x00\x00\xff\xfe") * 1_000_000
    path = write(tmp_path / "a", HEIC + (len(names) + 8).to_bytes(4) + kind + names)
    assert seconds_to_refuse(path) < 5
    assert not is_image(path)


@pytest.mark.parametrize("size", [2, 7, 2**32 - 1])
def test_a_heic_with_wrong_box_sizes_is_refused(tmp_path, size):
    seconds_to_refuse(write(tmp_path / "a", HEIC + size.to_bytes(4) + b"meta" + b"infe" * 100))


def test_a_jpeg_with_thousands_of_scans_is_refused(tmp_path):
    content = encoded(solid_image(1024, 1024), "JPEG", progressive=True)
    path = write(tmp_path / "a", content[:-2] + SCAN * 5000 + content[-2:])
    with pytest.raises(ValueError, match=r"it has 5,0\d\d scans: expected at most 500"):
        open_image(path)


def test_a_large_jpeg_may_have_fewer_scans(tmp_path):
    """The limit is on the pixels of all scans; here each has 36 million."""
    content = encoded(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
    path = write(tmp_path / "a", content[:-2] + SCAN * 100 + content[-2:])
    with pytest.raises(ValueError, match=r"it has 1\d\d scans: expected at most 69"):
        open_image(path)


def test_a_progressive_jpeg_is_decoded(tmp_path):
    path = write(tmp_path / "a", encoded(solid_image(96, 80), "JPEG", progressive=True))
    assert open_image(path).image.size == (96, 80)
