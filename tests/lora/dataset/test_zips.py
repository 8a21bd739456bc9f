"""Untrusted zips: the directory is checked before anything is decompressed, and is not trusted afterwards."""

import io
import random
import stat
import struct
import unicodedata
import zipfile

import pytest

from lora.dataset import archive, limits, zips
from tests.lora.dataset.archives import contents, patched, peak_of, refusal, unpacked
from tests.tiny import zipped

MEBIBYTE = 2**20
CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
# offsets of fields in the directory's headers, and in those of the members
VERSION, FLAGS, METHOD, CRC, PACKED_SIZE, SIZE, OFFSET = 6, 8, 10, 16, 20, 24, 42
LOCAL_FLAGS, LOCAL_METHOD, LOCAL_CRC = 6, 8, 14
UTF_8_FLAG, NO_FLAGS = 0x800, 0


def made_by(write, *, comment=b""):
    """The bytes of a zip that a function writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as output:
        write(output)
        output.comment = comment
    return file.getvalue()


def with_mode(name, content, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return made_by(lambda output: output.writestr(info, content))


def both_patched(content, field, local_field, packing, value):
    """The zip with the same field changed in the directory and in the headers of the members."""
    return patched(patched(content, CENTRAL, field, packing, value), LOCAL, local_field, packing, value)


def zip_with_name(raw, *, flags=NO_FLAGS):
    """A zip of one member whose name is these bytes."""
    content = zipped({"x" * len(raw): b"content"}).replace(b"x" * len(raw), raw)
    return both_patched(content, FLAGS, LOCAL_FLAGS, "<H", flags)


class Pipe(io.RawIOBase):
    """A stream that cannot seek, like a network connection."""

    def __init__(self):
        self.content = b""

    def writable(self):
        return True

    def write(self, data):
        self.content += bytes(data)
        return len(data)


def test_a_zip_cut_off_anywhere_is_refused(tmp_path):
    content = zipped({"a.jpg": b"first" * 9, "b.txt": b"second"}, compression=zipfile.ZIP_DEFLATED)
    for length in range(len(content)):
        folder = tmp_path / str(length)
        folder.mkdir()
        refusal(folder, content[:length])


def test_a_zip_without_its_end_is_reported_as_truncated(tmp_path):
    assert "is a zip that is cut off or damaged" in refusal(tmp_path, zipped({"a.jpg": bytes(1000)})[:500])


def test_an_empty_zip_has_no_members(tmp_path):
    assert unpacked(tmp_path, zipped({})) == []


@pytest.mark.parametrize("junk", [bytes(200), b"\x89PNG\r\n", b"<html>", b"GIF89a"])
def test_bytes_before_a_zip_are_ignored(tmp_path, junk):
    assert contents(tmp_path, junk + zipped({"a.jpg": b"1"})) == {"a.jpg": b"1"}


@pytest.mark.parametrize("comment", [b"made on holiday", b"x" * 65535])
def test_the_comment_of_a_zip_is_ignored(tmp_path, comment):
    content = made_by(lambda output: output.writestr("a.jpg", b"1"), comment=comment)
    assert contents(tmp_path, content) == {"a.jpg": b"1"}


def test_a_zip64_is_read(tmp_path):
    def write(output):
        with output.open("a.jpg", "w", force_zip64=True) as member:
            member.write(b"content")

    assert contents(tmp_path, made_by(write)) == {"a.jpg": b"content"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_can_follow_the_content(tmp_path, compression):
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", compression) as output:
        output.writestr("a.jpg", b"content" * 9)
        output.writestr("b.jpg", b"")
    assert contents(tmp_path, pipe.content) == {"a.jpg": b"content" * 9, "b.jpg": b""}


def test_a_file_larger_than_one_block_is_unpacked_unchanged(tmp_path):
    files = {"a.jpg": random.Random(0).randbytes(2 * MEBIBYTE + 1), "b.jpg": bytes(2 * MEBIBYTE)}
    assert contents(tmp_path, zipped(files, compression=zipfile.ZIP_DEFLATED)) == files


def test_symlinks_are_skipped(tmp_path):
    assert unpacked(tmp_path, with_mode("link.jpg", "/etc/passwd", stat.S_IFLNK | 0o777)) == []


@pytest.mark.parametrize("mode", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK, stat.S_IFREG | stat.S_ISUID | 0o777])
def test_every_other_kind_becomes_a_regular_file(tmp_path, mode):
    (member,) = unpacked(tmp_path, with_mode("a.jpg", b"content", mode))
    assert stat.S_ISREG(member.path.stat().st_mode)
    assert not member.path.stat().st_mode & (stat.S_ISUID | 0o111)


@pytest.mark.parametrize("folder", ["d.jpg/", "d.jpg\\"])
def test_folders_are_skipped(tmp_path, folder):
    assert contents(tmp_path, zipped({folder: b"", "d.jpg/a.jpg": b"1"})) == {"d.jpg/a.jpg": b"1"}


@pytest.mark.parametrize(
    ("raw", "flags", "name"),
    [
        ("é🙂.jpg".encode(), UTF_8_FLAG, "é🙂.jpg"),
        ("é🙂.jpg".encode(), NO_FLAGS, "é🙂.jpg"),
        (unicodedata.normalize("NFD", "é.jpg").encode(), NO_FLAGS, "e\u0301.jpg"),
        (b"caf\x82.jpg", NO_FLAGS, "café.jpg"),
        (b"caf\xe9.jpg", NO_FLAGS, "cafΘ.jpg"),
        (b"a\x07\x1b\n.jpg", NO_FLAGS, "a???.jpg"),
        (b"a.jpg\0.exe", NO_FLAGS, "a.jpg"),
    ],
    ids=["declared UTF-8", "macOS, undeclared", "macOS, decomposed", "DOS", "Windows", "controls", "two names"],
)
def test_names_are_decoded(tmp_path, raw, flags, name):
    assert [member.name for member in unpacked(tmp_path, zip_with_name(raw, flags=flags))] == [name]


def test_a_name_that_is_declared_but_invalid_utf_8_is_refused(tmp_path):
    assert "cut off or damaged" in refusal(tmp_path, zip_with_name(b"\xff\xfe.jpg", flags=UTF_8_FLAG))


def test_a_member_without_a_name_is_skipped(tmp_path):
    content = zipped({"\1.png": b"1", "a.jpg": b"1"}).replace(b"\1.png", b"\0.png")
    assert contents(tmp_path, content) == {"a.jpg": b"1"}


@pytest.mark.parametrize("other", [b"\xff\xfe.jpg", b"xxxxxx", b"\0\0.jpg"])
def test_a_member_with_different_names_is_refused(tmp_path, other):
    content = zipped({"é.jpg": b"content"}).replace("é.jpg".encode(), other[:6], 1)
    assert "'é.jpg', which is damaged" in refusal(tmp_path, content)


@pytest.mark.parametrize("name", ["x" * 4_000, "\n" * 4_000])
def test_the_error_for_different_long_names_is_short(tmp_path, name):
    content = zipped({name: b"content"}).replace(name.encode(), b"y" * len(name), 1)
    assert len(refusal(tmp_path, content)) < 1000


def test_an_encrypted_member_is_refused(tmp_path):
    message = refusal(tmp_path, both_patched(zipped({"a.jpg": bytes(20)}), FLAGS, LOCAL_FLAGS, "<H", 1))
    assert "'a.jpg', which is encrypted: expected a zip without a password" in message


@pytest.mark.parametrize("flag", [0x20, 0x40])
def test_patches_and_strong_encryption_are_refused(tmp_path, flag):
    content = both_patched(zipped({"a.jpg": bytes(20)}), FLAGS, LOCAL_FLAGS, "<H", flag)
    assert "'a.jpg', which cannot be read" in refusal(tmp_path, content)


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 99, 65535])
def test_an_unsupported_compression_is_refused(tmp_path, method):
    content = both_patched(zipped({"a.jpg": bytes(20)}), METHOD, LOCAL_METHOD, "<H", method)
    message = refusal(tmp_path, content)
    assert f"'a.jpg', which uses an unsupported compression (number {method}): zip it again" in message


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compressions_are_not_decompressed(tmp_path, compression):
    content = zipped({"a.jpg": bytes(40 * MEBIBYTE)}, compression=compression)
    content = patched(content, CENTRAL, SIZE, "<L", 100)  # so that the declared ratio is harmless
    assert peak_of(lambda: refusal(tmp_path, content)) < MEBIBYTE


def test_a_skipped_file_may_be_unreadable(tmp_path):
    content = zipped({"__MACOSX/x": bytes(20)})
    assert unpacked(tmp_path, both_patched(content, FLAGS, LOCAL_FLAGS, "<H", 1)) == []


def test_the_error_for_a_wrong_checksum_names_the_file(tmp_path):
    content = both_patched(zipped({"a.jpg": b"content"}), CRC, LOCAL_CRC, "<L", 1)
    assert "'a.jpg', which is damaged (Bad CRC-32" in refusal(tmp_path, content)


def test_the_error_for_damaged_data_names_the_file(tmp_path):
    content = bytearray(zipped({"a.jpg": bytes(range(256)) * 40}, compression=zipfile.ZIP_DEFLATED))
    content[35:75] = b"\xff" * 40
    assert "'a.jpg', which is damaged" in refusal(tmp_path, bytes(content))


def test_the_error_for_truncated_content_has_a_reason(tmp_path):
    content = patched(zipped({"a.jpg": b"content"}), CENTRAL, SIZE, "<L", 10_000)
    content = patched(content, CENTRAL, PACKED_SIZE, "<L", 10_000)
    assert "'a.jpg', which is damaged (its bytes end too early)" in refusal(tmp_path, content)


@pytest.mark.parametrize("offset", [1, 10_000, 2**32 - 2])
def test_a_wrong_offset_of_a_member_is_refused(tmp_path, offset):
    content = patched(zipped({"a.jpg": b"content"}), CENTRAL, OFFSET, "<L", offset)
    assert "'a.jpg', which is damaged" in refusal(tmp_path, content)


@pytest.mark.parametrize("start", [2**16, 2**32 - 2])
def test_a_wrong_offset_of_the_directory_is_refused(tmp_path, start):
    content = patched(zipped({"a.jpg": b"content"}), END, 16, "<L", start)
    assert "damaged" in refusal(tmp_path, content)


@pytest.mark.parametrize("offset", [2**63 - 1, 2**63, 2**64 - 1])
def test_an_impossible_offset_is_refused(tmp_path, offset):
    extra = struct.pack("<HHQ", 1, 8, offset)
    content = zipped({"a.jpg": b"content"})
    at = content.index(CENTRAL)
    content = content[: at + 46 + 5] + extra + content[at + 46 + 5 :]
    content = patched(patched(content, CENTRAL, OFFSET, "<L", 2**32 - 1), CENTRAL, 30, "<H", len(extra))
    size = content.index(END) - at
    assert "'a.jpg', which is damaged" in refusal(tmp_path, patched(content, END, 12, "<L", size))


@pytest.mark.parametrize("junk", [b"", b"junk"])
def test_a_multi_part_zip_is_refused(tmp_path, junk):
    content = zipped({"a.jpg": b"content"})
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    content = content.replace(END, locator + END)
    assert "multiple disks" in refusal(tmp_path, junk + content)


def test_a_zip_of_a_newer_version_is_refused(tmp_path):
    assert "zip file version 9.9" in refusal(tmp_path, patched(zipped({"a.jpg": b""}), CENTRAL, VERSION, "<H", 99))


def test_a_bomb_is_refused_by_its_ratio_before_anything_is_written(tmp_path):
    content = zipped({"a.jpg": b"1", "b.jpg": bytes(60 * MEBIBYTE)}, compression=zipfile.ZIP_DEFLATED)
    assert "'b.jpg', which unpacks to 62,914,560 bytes from" in refusal(tmp_path, content)
    assert list((tmp_path / "into").iterdir()) == []


def test_many_small_bombs_are_refused_by_their_total_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "SUSPECT_TOTAL", 3 * MEBIBYTE)
    content = zipped({f"{index}.jpg": bytes(MEBIBYTE) for index in range(4)}, compression=zipfile.ZIP_DEFLATED)
    assert "unpacks to 4,194,304 bytes from" in refusal(tmp_path, content)


def test_a_wrong_size_in_the_directory_is_detected(tmp_path):
    content = zipped({"a.jpg": bytes(30 * MEBIBYTE)}, compression=zipfile.ZIP_DEFLATED)
    assert "'a.jpg', which is damaged" in refusal(tmp_path, patched(content, CENTRAL, SIZE, "<L", 100))
    assert (tmp_path / "into" / "000000").stat().st_size <= 100


def test_the_unpacked_bytes_are_counted(tmp_path, monkeypatch):
    content = zipped({"a.jpg": bytes(3 * MEBIBYTE)})
    monkeypatch.setattr(archive, "MAX_BYTES_OF_A_MEMBER", 2 * MEBIBYTE)
    assert "'a.jpg', which unpacks to more than 2,097,152 bytes" in refusal(tmp_path, content)
    assert (tmp_path / "into" / "000000").stat().st_size <= 2 * MEBIBYTE


def test_the_total_size_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BYTES", 1500)
    assert "2,000 bytes or more" in refusal(tmp_path, zipped({"a.jpg": bytes(1000), "b.jpg": bytes(1000)}))
    assert list((tmp_path / "into").iterdir()) == []


def test_the_number_of_members_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MAX_MEMBERS", 2)
    assert "3 files: expected at most 2" in refusal(tmp_path, zipped({"a": b"", "b": b"", "c": b""}))


def test_a_directory_of_millions_of_members_is_refused_before_it_is_read(tmp_path):
    entry = struct.pack("<4s4B4HL2L5H2L", CENTRAL, 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 400_000
    end = struct.pack("<4s4H2LH", END, 0, 0, 65535, 65535, len(directory), 0, 0)
    assert "a directory of 18,800,000 bytes" in refusal(tmp_path, directory + end)


@pytest.mark.parametrize("files", [2, 500])
def test_members_that_share_bytes_are_refused(tmp_path, files):
    content = zipped({f"{index}.jpg": b"content" for index in range(files)})
    assert "'0.jpg' and '1.jpg', which overlap" in refusal(tmp_path, patched(content, CENTRAL, OFFSET, "<L", 0))
