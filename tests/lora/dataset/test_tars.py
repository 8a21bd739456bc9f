"""Untrusted tars: each is read forward only and in bounded memory, or refused in one sentence."""

import functools
import gzip
import tarfile
import time

import pytest

from lora.dataset import tars
from tests.lora.dataset.archives import contents, peak_of, refusal, tarred, unpacked
from tests.tiny import encoded, solid_image

MEBIBYTE = 2**20
IMAGE = tarred({"a.jpg": b"content"}, format=tarfile.USTAR_FORMAT)[:1024]  # one file, without the end of the tar
END = bytes(1024)
WITHOUT_CONTENT = [b"1", b"2", b"3", b"4", b"5", b"6"]  # links, devices, folders and pipes
DESCRIBES_NEXT = [tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, b"K", b"L"]  # pax, and GNU long names
gzipped = functools.partial(gzip.compress, compresslevel=1, mtime=0)


def header(kind=tarfile.REGTYPE, *, name="x.jpg", size=0, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, linkname
    return info.tobuf(tarfile.GNU_FORMAT)


def with_content(kind, content, **options):
    """A header and its content, padded to whole blocks."""
    return header(kind, size=len(content), **options) + content + bytes(-len(content) % 512)


def patched_header(block, changes):
    """A header with changed bytes, and a matching checksum."""
    changed = bytearray(block)
    for offset, field in changes.items():
        changed[offset : offset + len(field)] = field
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def pax(*records):
    """The content of a pax header."""
    return b"".join(record(keyword, value) for keyword, value in records)


def record(keyword, value):
    length = len(keyword) + len(value) + 3
    while len(b"%d" % length) + len(keyword) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, keyword, value)


@pytest.mark.parametrize("packed", [bytes, gzipped])
@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_format_are_read(tmp_path, kind, packed):
    files = {f"{'folder/' * 15}{'name' * 10}.jpg": bytes(3 * MEBIBYTE) + b"1", "é 🙂.txt": b"2", "./b.jpg": b""}
    assert contents(tmp_path, packed(tarred(files, format=kind))) == files


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_long_name_is_read_whole(tmp_path, kind):
    files = {f"{'folder/' * 50}{'é' * 200}.jpg": b"1", "b.jpg": b"2"}
    assert contents(tmp_path, tarred(files, format=kind)) == files


def test_a_tar_older_than_ustar_is_read(tmp_path):
    without_magic = {257: bytes(8)}
    folder = patched_header(header(tarfile.AREGTYPE, name="d.jpg/"), without_magic)
    image = patched_header(header(tarfile.AREGTYPE, name="d.jpg/a.jpg", size=3), without_magic) + b"abc" + bytes(509)
    assert contents(tmp_path, folder + image + END) == {"d.jpg/a.jpg": b"abc"}


def test_a_size_in_a_pax_header_takes_precedence(tmp_path):
    metadata = with_content(tarfile.XHDTYPE, pax((b"size", b"7"), (b"mtime", b"1.5")))
    content = metadata + header() + b"content" + bytes(505) + IMAGE + END
    assert contents(tmp_path, content) == {"x.jpg": b"content", "a.jpg": b"content"}


def test_a_name_that_ends_with_a_slash_is_not_a_file(tmp_path):
    assert contents(tmp_path, with_content(b"L", b"d.jpg/") + header() + IMAGE) == {"a.jpg": b"content"}


def test_a_global_pax_header_is_not_a_file(tmp_path):
    content = tarred({"a.jpg": b"1"}, format=tarfile.PAX_FORMAT, pax_headers={"comment": "of a commit"})
    assert contents(tmp_path, content) == {"a.jpg": b"1"}


def test_the_end_of_a_tar_may_be_missing(tmp_path):
    assert contents(tmp_path, IMAGE) == {"a.jpg": b"content"}


def test_bytes_after_the_end_of_a_tar_are_ignored(tmp_path):
    assert contents(tmp_path, IMAGE + END + b"garbage" * 200) == {"a.jpg": b"content"}


def test_an_empty_tar_gz_has_no_members(tmp_path):
    assert unpacked(tmp_path, gzipped(tarred({}))) == []


@pytest.mark.parametrize("packed", [bytes, gzipped])
@pytest.mark.parametrize("kind", WITHOUT_CONTENT)
def test_links_devices_and_folders_are_skipped(tmp_path, kind, packed):
    content = header(kind, linkname="/etc/passwd") + header(kind, linkname="a.jpg", size=10**10) + IMAGE
    assert contents(tmp_path, packed(content)) == {"a.jpg": b"content"}


@pytest.mark.parametrize(
    "sparse",
    [
        patched_header(header(tarfile.GNUTYPE_SPARSE, size=3), {482: b"\1"})
        + (bytes(504) + b"\1" + bytes(7))
        + bytes(512)
        + (b"abc" + bytes(509)),
        with_content(tarfile.XHDTYPE, pax((b"GNU.sparse.size", b"9" * 12))) + with_content(tarfile.REGTYPE, b"abc"),
        with_content(tarfile.XHDTYPE, pax((b"GNU.sparse.map", b"0,1"))) + with_content(tarfile.REGTYPE, b"abc"),
        with_content(tarfile.XHDTYPE, pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9" * 12)))
        + with_content(tarfile.REGTYPE, b"1\n0\n3\n" + bytes(506) + b"abc"),
    ],
    ids=["old", "0.0", "0.1", "1.0"],
)
def test_sparse_files_are_skipped(tmp_path, sparse):
    assert contents(tmp_path, sparse + IMAGE + END) == {"a.jpg": b"content"}


def test_names_that_are_not_utf_8_stay_distinct(tmp_path):
    names = [b"caf\xe9.jpg", b"caf\xe8.jpg", b"\x95\x41.jpg", "café.jpg".encode()]
    members = unpacked(
        tmp_path, b"".join(patched_header(header(name="-" * 20), {0: name.ljust(20, b"\0")}) for name in names)
    )
    assert [member.name for member in members] == ["cafΘ.jpg", "cafΦ.jpg", "òA.jpg", "café.jpg"]


def test_a_name_in_a_pax_header_may_be_invalid_utf_8(tmp_path):
    metadata = with_content(tarfile.XHDTYPE, pax((b"hdrcharset", b"BINARY"), (b"path", b"\xff\n\xfe.jpg")))
    assert [member.name for member in unpacked(tmp_path, metadata + header())] == ["\xa0?■.jpg"]


def test_a_tar_gz_cut_off_anywhere_is_refused(tmp_path):
    content = gzip.compress(tarred({"a.jpg": b"first" * 9, "b.txt": b"second"}), mtime=0)
    for length in range(len(content)):
        folder = tmp_path / str(length)
        folder.mkdir()
        refusal(folder, content[:length])


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_cut_off_anywhere_but_between_two_files_is_refused(tmp_path, kind):
    content = tarred({"a.jpg": b"1" * 600, f"{'b' * 200}.txt": b"2"}, format=kind)
    first, second = 512 + 1024, content.index(b"2" + bytes(511)) + 512
    for length in range(512, len(content), 8):
        folder = tmp_path / str(length)
        folder.mkdir()
        if length == first or length >= second:
            assert len(unpacked(folder, content[:length])) == (1 if length == first else 2)
        else:
            refusal(folder, content[:length])


@pytest.mark.parametrize("position", [-1, -5, 10, 40])
def test_a_corrupt_gzip_is_refused(tmp_path, position):
    content = bytearray(gzip.compress(tarred({"a.jpg": bytes(range(256))}), mtime=0))
    content[position] ^= 0xFF
    assert "cannot be read" in refusal(tmp_path, bytes(content))


def test_a_wrong_checksum_of_a_gzip_is_refused_even_if_the_tar_is_complete(tmp_path):
    content = gzip.compress(IMAGE + END, compresslevel=0).replace(b"content", b"contend")
    assert "CRC check failed" in refusal(tmp_path, content)


def test_a_gzip_of_several_parts_is_read(tmp_path):
    content = IMAGE + header(name="b.jpg") + END
    assert contents(tmp_path, gzipped(content[:700]) + gzipped(content[700:])) == {"a.jpg": b"content", "b.jpg": b""}


def test_zeros_after_a_gzip_are_ignored(tmp_path):
    assert contents(tmp_path, gzipped(IMAGE + END) + bytes(1000)) == {"a.jpg": b"content"}


def test_a_gzip_with_garbage_after_it_is_refused(tmp_path):
    assert "cannot be read" in refusal(tmp_path, gzipped(IMAGE + END) + b"garbage")


@pytest.mark.parametrize("content", [encoded(solid_image()), b"hello there", gzipped(IMAGE)])
def test_a_gzip_of_something_else_is_refused(tmp_path, content):
    assert "it holds no tar" in refusal(tmp_path, gzipped(content))


def test_an_empty_gzip_is_refused(tmp_path):
    assert "it is empty" in refusal(tmp_path, gzipped(b""))


def test_garbage_between_two_files_is_refused(tmp_path):
    assert "no file starts at byte 1,024" in refusal(tmp_path, IMAGE + b"garbage!" * 64 + IMAGE + END)


@pytest.mark.parametrize("packed", [bytes, gzipped])
@pytest.mark.parametrize("kind", DESCRIBES_NEXT)
def test_a_header_of_gigabytes_is_refused_before_it_is_read(tmp_path, kind, packed):
    content = packed(header(kind, size=10**10) + bytes(4 * MEBIBYTE))
    assert peak_of(lambda: refusal(tmp_path, content)) < MEBIBYTE
    assert "a header of 10,000,000,000 bytes" in refusal(tmp_path / "into", content)


@pytest.mark.parametrize(
    "link",
    [
        with_content(tarfile.XHDTYPE, pax((b"path", b"a.jpg"))),
        with_content(tarfile.XGLTYPE, pax((b"path", b"a.jpg"))),
        with_content(tarfile.GNUTYPE_LONGNAME, b"a.jpg"),
        header(tarfile.GNUTYPE_LONGLINK),
    ],
    ids=["pax", "global", "long name", "long link"],
)
def test_a_chain_of_headers_is_refused(tmp_path, link):
    assert "more than 8 headers about one file" in refusal(tmp_path, link * 5000 + IMAGE)


def test_a_megabyte_of_digits_is_refused_at_once(tmp_path):
    started = time.monotonic()
    assert "a record of" in refusal(tmp_path, with_content(tarfile.XHDTYPE, b"1" * MEBIBYTE) + IMAGE)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "records",
    [b"0 a=\n", b"-7 a=b\n", b"2 a=\n", b"99 path=a\n", b"path=a\n", b" a=\n", b"\xff", b"1", "¹ a=\n".encode()],
)
def test_records_of_wrong_lengths_are_refused(tmp_path, records):
    assert "cannot be read" in refusal(tmp_path, with_content(tarfile.XHDTYPE, records) + IMAGE)


@pytest.mark.parametrize("size", [b"-1", b"", b"1.5", b"9" * 5000, "٣".encode()])
def test_a_size_that_is_not_a_number_is_refused(tmp_path, size):
    content = with_content(tarfile.XHDTYPE, pax((b"size", size))) + IMAGE
    assert "an invalid number of bytes" in refusal(tmp_path, content)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE, b"?"])
@pytest.mark.parametrize("size", [-1, -512, -(10**12)])
def test_a_negative_size_is_refused(tmp_path, kind, size):
    assert f"a file of {size:,} bytes" in refusal(tmp_path, IMAGE + header(kind, size=size) + IMAGE)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    assert "'x.jpg', which unpacks to 10,000,000,000 bytes" in refusal(tmp_path, header(size=10**10) + bytes(512))
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("name", [".hidden", "__MACOSX/a.jpg"])
def test_missing_content_is_refused_even_if_the_file_is_skipped(tmp_path, name):
    assert "unexpected end of data" in refusal(tmp_path, header(name=name, size=2**62) + IMAGE)


@pytest.mark.parametrize("cut", [0, 511])
def test_a_sparse_file_whose_map_is_cut_off_is_refused(tmp_path, cut):
    content = patched_header(header(tarfile.GNUTYPE_SPARSE), {482: b"\1"}) + bytes(cut)
    assert "unexpected end of data" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        with_content(tarfile.XGLTYPE, pax(*((b"%d" % index, b"") for index in range(50_000))))
        + header(name=".x") * 500,
        patched_header(header(tarfile.GNUTYPE_SPARSE), {482: b"\1"})
        + (b"00000000001\0" * 42 + b"\1" + bytes(7)) * 20_000
        + bytes(512),
        with_content(tarfile.XHDTYPE, pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")))
        + with_content(tarfile.REGTYPE, b"1000000\n" + b"0\n" * 2_000_000),
    ],
    ids=["global keywords", "old sparse map", "sparse map"],
)
def test_headers_are_read_in_bounded_memory(tmp_path, content):
    content = gzipped(content + END)
    assert peak_of(lambda: unpacked(tmp_path, content)) < 10 * MEBIBYTE


def test_the_number_of_members_of_any_kind_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MAX_MEMBERS", 2)
    assert "more than 2 files" in refusal(tmp_path, header(tarfile.DIRTYPE) + header(tarfile.SYMTYPE) + IMAGE)


@pytest.mark.parametrize("limit", ["SUSPECT_BYTES", "SUSPECT_TOTAL"])
@pytest.mark.parametrize("name", ["a.jpg", "__MACOSX/a.jpg"])
def test_a_gzip_bomb_is_refused_by_its_ratio_whatever_it_contains(tmp_path, monkeypatch, limit, name):
    monkeypatch.setattr(tars, limit, 2 * MEBIBYTE)
    content = gzipped(tarred({f"{name}{index}": bytes(MEBIBYTE) for index in range(8)}))
    assert "not a decompression bomb" in refusal(tmp_path, content)


@pytest.mark.parametrize("tail", [bytes(60 * MEBIBYTE), b"\1" * 60 * MEBIBYTE])
def test_a_bomb_after_the_end_of_a_tar_is_refused(tmp_path, tail):
    assert "not a decompression bomb" in refusal(tmp_path, gzipped(IMAGE + END + tail))


def test_an_uncompressed_tar_is_not_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "SUSPECT_BYTES", 100)
    assert len(unpacked(tmp_path, tarred({"a.jpg": bytes(MEBIBYTE)}))) == 1
