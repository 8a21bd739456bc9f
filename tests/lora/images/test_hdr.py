"""HDR images are shown as on an ordinary display, however they declare it; others are not changed."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from bench.planted import photograph
from lora.images.files import open_image
from lora.images.signals import Transfer
from tests.tiny import encoded, noisy_image, write

DATA = Path(__file__).parents[2] / "data"
PQ, HLG, BT2020, P3, SRGB = 16, 18, 9, 12, 1
ORDINARY = b"nclx\0\1\0\r"  # BT.709 primaries, sRGB transfer function, as Pillow and pillow-heif declare


def linear(levels):
    levels = np.asarray(levels, float) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def pq(nits):
    """ST 2084, equation 5.2."""
    y = (np.asarray(nits) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(nits):
    """ITU-R BT.2100: the inverse OOTF of gray or colors [..., 3] on a display of 1000 cd/m2, then the OETF."""
    display = np.asarray(nits) / 1000
    luminance = np.maximum(display @ (0.2627, 0.6780, 0.0593), 1e-9)[..., None]
    scene = display * luminance ** (1 / 1.2 - 1)
    logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)


def in_primaries(rgb, primaries):
    """Linear sRGB [..., 3] in other primaries."""
    if primaries == SRGB:
        return rgb
    to_srgb = {
        BT2020: [(1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)],
        P3: [(1.2249, -0.2247, 0), (-0.0420, 1.0419, 0), (-0.0197, -0.0786, 1.0979)],
    }[primaries]
    return (rgb @ np.linalg.inv(to_srgb).T).clip(0)


def signal_of(image, transfer, primaries, *, white=203):
    """The HDR signal of an sRGB image whose white has this light, in 8 bits."""
    nits = in_primaries(linear(image), primaries) * white
    return Image.fromarray(np.rint((pq if transfer == PQ else hlg)(nits).clip(0, 1) * 255).astype(np.uint8))


def png_with_cicp(image, transfer, primaries, **options):
    content = encoded(image, **options)
    chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
    return content[:33] + struct.pack(">L", 4) + chunk + struct.pack(">L", zlib.crc32(chunk)) + content[33:]


def profile_with(tag, content):
    """An sRGB profile with one tag replaced."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">L", profile, 128)
    at = next(at for at in range(132, 132 + 12 * count, 12) if profile[at : at + 4] in (b"chrm", tag))
    struct.pack_into(">4sLL", profile, at, tag, len(profile), len(content))
    profile += content
    struct.pack_into(">L", profile, 0, len(profile))
    return bytes(profile)


def profile_with_cicp(transfer, primaries):
    return profile_with(b"cicp", b"cicp" + bytes(4) + bytes([primaries, transfer, 0, 1]))


def profile_named(name):
    text = name.encode("utf-16-be")
    return profile_with(b"desc", b"mluc" + struct.pack(">LLL4sLL", 0, 1, 12, b"enUS", len(text), 28) + text)


def with_nclx(content, transfer, primaries):
    assert ORDINARY in content
    return content.replace(ORDINARY, b"nclx" + struct.pack(">HH", primaries, transfer))


def jpeg(image, **options):
    return encoded(image, "JPEG", quality=95, subsampling=0, **options)


NAMES = {(PQ, BT2020): "Rec. ITU-R BT.2100 PQ", (PQ, P3): "Display P3 PQ", (HLG, BT2020): "ITU-R BT.2100 HLG"}
WAYS = {
    "cICP of a PNG": png_with_cicp,
    "cICP before a profile": lambda image, *signal: png_with_cicp(image, *signal, icc_profile=profile_named("sRGB")),
    "cicp of a profile": lambda image, *signal: jpeg(image, icc_profile=profile_with_cicp(*signal)),
    "name of a profile": lambda image, *signal: jpeg(image, icc_profile=profile_named(NAMES[signal])),
    "nclx of an AVIF": lambda image, *signal: with_nclx(encoded(image, "AVIF", quality=100), *signal),
}


@pytest.fixture(scope="module")
def photo():
    return photograph("chelsea").resize((150, 100))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("signal", NAMES)
def test_an_hdr_image_without_highlights_looks_like_the_ordinary_one(tmp_path, photo, way, signal):
    """Up to the eight bits of the signal, whose steps are larger than those of sRGB."""
    path = write(tmp_path / "a", WAYS[way](signal_of(photo, *signal), *signal))
    error = np.abs(np.asarray(open_image(path).image, float) - np.asarray(photo, float))
    assert error.mean() < 4
    assert np.percentile(error, 99) < 16


@pytest.mark.parametrize("signal", [(PQ, BT2020), (HLG, BT2020)])
def test_the_nclx_of_a_heic_is_read(tmp_path, signal):
    content = (DATA / "ten-bits.heic").read_bytes()
    plain = np.asarray(open_image(DATA / "ten-bits.heic").image)[40, :, 1]
    ramp = np.asarray(open_image(write(tmp_path / "a", with_nclx(content, *signal))).image)[40, :, 1]
    assert np.abs(ramp.astype(int) - plain).max() > 20
    assert (np.diff(ramp.astype(int)) >= -1).all()


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_highlights_are_compressed_and_shadows_and_grays_are_kept(tmp_path, transfer):
    nits = np.linspace(0, 1000, 256).repeat(64).reshape(256, 64).T
    gray = np.repeat(nits[..., None], 3, axis=2)
    image = Image.fromarray(np.rint((pq if transfer == PQ else hlg)(gray) * 255).astype(np.uint8))
    found = np.asarray(open_image(write(tmp_path / "a", png_with_cicp(image, transfer, BT2020))).image)[9]
    assert np.ptp(found.astype(int), axis=1).max() <= 1, "gray stays gray"
    levels = linear(found[:, 1])
    assert (np.diff(levels) >= 0).all()
    assert len(np.unique(found[52:, 1])) > 15, "what is brighter than white is not all white"
    dark = slice(0, 20)  # up to 75 cd/m2
    assert np.abs(levels[dark] - nits[9, dark] / 203).max() < 0.02


def test_an_ordinary_image_is_not_tone_mapped(tmp_path, photo):
    expected = np.asarray(photo)
    for content in (
        png_with_cicp(photo, 13, SRGB),
        encoded(photo, icc_profile=profile_named("sRGB built-in")),
        encoded(photo, icc_profile=profile_with_cicp(13, SRGB)),
    ):
        assert (np.asarray(open_image(write(tmp_path / "a", content)).image) == expected).all()


def test_of_a_photo_with_a_gain_map_the_photo_is_used(tmp_path, photo):
    """Ultra HDR: the map is a second JPEG behind the first, and XMP names it."""
    gain_map = encoded(photo.convert("L").resize((75, 50)), "JPEG")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"'
    xmp += b' hdrgm:Version="1.0"/>'
    base = encoded(photo, "JPEG", quality=95)
    content = base[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + base[2:]
    plain = np.asarray(open_image(write(tmp_path / "a", base)).image)
    assert (np.asarray(open_image(write(tmp_path / "b", content + gain_map)).image) == plain).all()


def test_a_gain_map_with_an_hdr_signal_in_an_avif_does_not_make_the_photo_one(tmp_path):
    """The signal of the primary item decides: here the property is there, and belongs to no item."""
    content = encoded(noisy_image(), "AVIF")
    at = content.index(b"ipma")
    assert content[at + 18] == 4, "the last association is that of colr"
    unlinked = with_nclx(content, PQ, BT2020)
    unlinked = unlinked[: at + 18] + b"\1" + unlinked[at + 19 :]
    plain = np.asarray(open_image(write(tmp_path / "a", content)).image)
    assert (np.asarray(open_image(write(tmp_path / "b", unlinked)).image) == plain).all()


def test_the_numbers_of_the_transfer_functions_are_those_of_h_273():
    assert (Transfer.PQ, Transfer.HLG) == (PQ, HLG)
