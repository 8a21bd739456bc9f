"""Untrusted archives: each is unpacked within limits and inside its folder, or refused in one sentence."""

import gzip
import random
import stat
import zipfile
from pathlib import Path

import pytest

from lora.dataset import archive, limits
from lora.dataset.archive import unpack_archive
from lora.dataset.reading import Archives
from lora.dataset.refusal import ContentError
from tests.lora.dataset.archives import contents, refusal, tarred, unpacked
from tests.tiny import assert_one_sentence, encoded, solid_image, write, zipped


def deflated(members):
    return zipped(members, compression=zipfile.ZIP_DEFLATED)


def gzipped(members):
    return gzip.compress(tarred(members), mtime=0)


every_kind = pytest.mark.parametrize("packed", [zipped, deflated, tarred, gzipped])


@every_kind
def test_the_kind_of_an_archive_is_determined_by_its_content(tmp_path, packed):
    assert contents(tmp_path, packed({"a.jpg": b"content"})) == {"a.jpg": b"content"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"P", "something else of 1 bytes"),
        (b"hello there", "something else of 11 bytes"),
        (b"  <!DOCTYPE html><html>Not found</html>", "a web page of 39 bytes"),
        (encoded(solid_image()), "a single PNG image"),
        (encoded(solid_image(), "JPEG"), "a single JPEG image"),
        (encoded(solid_image(), "WEBP"), "a single WebP image"),
        (encoded(solid_image(), "GIF"), "a single GIF image"),
        (b"%PDF-1.7", "a PDF"),
        (b"Rar!\x1a\x07" + bytes(45), "a rar archive of 51 bytes"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"BZh9", "a bzip2 file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (tarred({}), "an empty tar, or only zeros, of 10,240 bytes"),
    ],
)
def test_the_error_for_another_file_says_what_it_appears_to_be(tmp_path, content, found):
    message = refusal(tmp_path, content)
    assert message.startswith(f"is {found}")
    assert message.endswith(": expected a zip, tar or tar.gz of images")


@pytest.mark.parametrize(
    ("path", "found"),
    [("none.zip", "where no file is"), ("line\nbreak", "where no file is"), ("", "a folder"), ("a\0b", "no file")],
)
def test_the_error_for_a_path_without_a_file_names_it(tmp_path, path, found):
    with pytest.raises(ContentError) as error:
        unpack_archive(tmp_path / path, into=tmp_path / "into")
    assert_one_sentence(error.value, repr(str(tmp_path / path)).strip("'"), found)


def test_text_that_is_too_long_for_a_path_is_refused(tmp_path):
    with pytest.raises(ContentError) as error:
        unpack_archive(Path("data:application/zip;base64," + "A" * 100_000), into=tmp_path / "into")
    assert_one_sentence(error.value, "'data:application/zip;base64,AAA", "where no file is")
    assert len(str(error.value)) < 400


def test_an_archive_of_too_many_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 100)
    assert refusal(tmp_path, bytes(101)) == "has 101 bytes: expected at most 100"


@every_kind
def test_members_are_written_in_order_under_generated_names(tmp_path, packed):
    members = unpacked(tmp_path, packed({"b.jpg": b"2", "a/b/c/d/a.jpg": b"1", "🙂 日本 (1).txt": b"3"}))
    assert [member.name for member in members] == ["b.jpg", "a/b/c/d/a.jpg", "🙂 日本 (1).txt"]
    assert [member.path.read_bytes() for member in members] == [b"2", b"1", b"3"]
    assert [member.path.name for member in members] == ["000000", "000001", "000002"]


@every_kind
def test_an_unpacked_file_is_not_executable(tmp_path, packed):
    (member,) = unpacked(tmp_path, packed({"a.sh": b"#!/bin/sh"}))
    assert not member.path.stat().st_mode & (stat.S_ISUID | 0o111)


@every_kind
@pytest.mark.parametrize(
    "name",
    [
        "../../evil.jpg",
        "/tmp/evil.jpg",
        "//evil.jpg",
        "a/../../evil.jpg",
        "..\\evil.jpg",
        "C:\\evil.jpg",
        "\\\\host\\share\\evil.jpg",
        "con.jpg",
        "000000",
        "..",
        f"{'long' * 200}.jpg",
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path, packed, name):
    (member,) = unpacked(tmp_path, packed({name: b"content"}))
    assert member.name == name
    assert member.path == tmp_path / "into" / "000000"


@every_kind
def test_two_files_of_one_name_are_both_unpacked(tmp_path, packed):
    members = unpacked(tmp_path, packed({"é.jpg": b"1", "e\u0301.jpg": b"2"}))
    assert [member.path.read_bytes() for member in members] == [b"1", b"2"]


@every_kind
@pytest.mark.parametrize("name", ["a\x1b[31m.jpg", "a\r\n.jpg", "a\u202egpj.exe"])
def test_control_characters_in_names_are_replaced(tmp_path, packed, name):
    (member,) = unpacked(tmp_path, packed({name: b"content"}))
    assert "?" in member.name
    assert not set(member.name) & set("\x1b\r\n\u202e")


@every_kind
def test_an_overlong_name_is_refused(tmp_path, packed):
    message = refusal(tmp_path, packed({"x" * 5000: b"content"}))
    assert "a name of 5,000 characters" in message
    assert len(message) < 400


@every_kind
@pytest.mark.parametrize("junk", ["__MACOSX/._a.jpg", ".DS_Store", "x/Thumbs.db", "Icon\r"])
def test_files_added_by_macos_and_windows_are_skipped(tmp_path, packed, junk):
    assert contents(tmp_path, packed({junk: b"junk", "a.jpg": b"1"})) == {"a.jpg": b"1"}


@every_kind
def test_files_that_the_filter_rejects_are_not_unpacked(tmp_path, packed):
    archive_file = write(tmp_path / "sent", packed({"a.jpg": b"1", "a.txt": b"2"}))
    members = unpack_archive(archive_file, into=tmp_path / "into", wanted=lambda name: name.endswith(".txt"))
    assert [member.name for member in members] == ["a.txt"]
    assert len(list((tmp_path / "into").iterdir())) == 1


@every_kind
def test_the_total_size_of_the_members_is_limited(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BYTES", 1500)
    message = refusal(tmp_path, packed({"a.jpg": bytes(1000), "b.jpg": bytes(1000)}))
    assert message.endswith("expected at most 1,500")


@every_kind
def test_a_full_disk_is_reported(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(limits, "DISK_TO_SPARE", 2**60)
    assert "expected at most 0, because the disk has no more beside the" in refusal(
        tmp_path, packed({"a.jpg": b"content"})
    )


@every_kind
def test_a_damaged_archive_is_refused_or_unpacked(tmp_path, packed):
    rng = random.Random(0)
    content = packed({f"{'folder/' * 40}é.jpg": rng.randbytes(300), "b.txt": b"text" * 50, "__MACOSX/c": b"1"})
    for index in range(250):
        folder = tmp_path / str(index)
        folder.mkdir()
        try:
            unpacked(folder, damaged(content, rng))
        except ContentError as error:
            assert_one_sentence(error)
            assert len(str(error)) < 1000


def damaged(content, rng):
    """The content with some bytes changed, and sometimes with a part removed, duplicated or truncated."""
    changed = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 2, 8])):
        changed[rng.randrange(len(changed))] = rng.choice([0, 0xFF, rng.randrange(256)])
    start, end = sorted(rng.choices(range(len(changed)), k=2))
    cut = rng.randrange(6)
    if cut == 0:
        del changed[start:end]
    elif cut == 1:
        changed[end:end] = changed[start:end]
    elif cut == 2:
        del changed[end:]
    return bytes(changed)


def test_inputs_can_be_paths_or_text():
    assert Archives.from_inputs("a.zip", captions=Path("b.zip")) == Archives(Path("a.zip"), Path("b.zip"))


@pytest.mark.parametrize("captions", [None, ""])
def test_input_captions_is_optional(captions):
    assert Archives.from_inputs("a.zip", captions=captions).captions is None
