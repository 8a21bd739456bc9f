"""Archives that nobody should trust: each is unpacked within limits and inside its folder, or refused in a sentence."""

import io
import stat
import struct
import tarfile
import zipfile

import pytest

from lora.dataset import archive
from lora.dataset.archive import unpack_archive
from tests.tiny import assert_one_sentence, encoded, picture, write, zipped

CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
CENTRAL_FLAGS, CENTRAL_METHOD, CENTRAL_CRC, CENTRAL_SIZE, CENTRAL_OFFSET = 8, 10, 16, 24, 42
LOCAL_FLAGS, LOCAL_METHOD, LOCAL_CRC, LOCAL_SIZE = 6, 8, 14, 22


def unpacked(tmp_path, content):
    return unpack_archive(write(tmp_path / "images.zip", content), into=tmp_path / "into")


def refusal(tmp_path, content):
    """The one sentence that an archive is refused with."""
    with pytest.raises(ValueError) as error:
        unpacked(tmp_path, content)
    assert_one_sentence(error.value, "input_images")
    return str(error.value)


def patched(content, header, offset, packing, value):
    """A zip with one field changed in each of its headers of a kind."""
    content, at = bytearray(content), -1
    while (at := content.find(header, at + 1)) >= 0:
        struct.pack_into(packing, content, at + offset, value)
    return bytes(content)


def with_attributes(name, content, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as output:
        output.writestr(info, content)
    return file.getvalue()


def a_tar_gz():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    return file.getvalue()


def a_tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"hello there", "something else of 11 bytes"),
        (b"  <!DOCTYPE html><html>Not found</html>", "a web page"),
        (a_tar_gz(), "a gzip file"),
        (a_tar(), "a tar archive"),
        (encoded(picture()), "a single PNG image"),
        (encoded(picture(), "JPEG"), "a single JPEG image"),
        (b"Rar!\x1a\x07" + bytes(50), "a rar archive"),
        (zipped({"a.jpg": bytes(1000)})[:500], "a zip that is cut off or damaged"),
    ],
)
def test_what_is_no_zip_is_told_by_what_it_is(tmp_path, content, found):
    assert found in refusal(tmp_path, content)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError) as error:
        unpack_archive(tmp_path / "none.zip", into=tmp_path / "into")
    assert_one_sentence(error.value, "input_images", "none.zip", "no such file")


def test_a_zip_cut_off_anywhere_is_refused_in_a_sentence(tmp_path):
    content = zipped({"a.jpg": b"first" * 9, "b.txt": b"second"}, compression=zipfile.ZIP_DEFLATED)
    for length in range(len(content)):
        folder = tmp_path / str(length)
        folder.mkdir()
        refusal(folder, content[:length])


def test_members_are_kept_in_order_under_names_of_our_own(tmp_path):
    members = unpacked(tmp_path, zipped({"b.jpg": b"2", "deep/er/a.jpg": b"1", "🙂 (1).txt": b"3"}))
    assert [member.name for member in members] == ["b.jpg", "deep/er/a.jpg", "🙂 (1).txt"]
    assert [member.path.read_bytes() for member in members] == [b"2", b"1", b"3"]
    assert [member.path.name for member in members] == ["000000", "000001", "000002"]


def test_an_empty_zip_has_no_members(tmp_path):
    assert unpacked(tmp_path, zipped({})) == []


def test_bytes_before_a_zip_do_not_matter(tmp_path):
    assert len(unpacked(tmp_path, bytes(200) + zipped({"a.jpg": b"1"}))) == 1


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "a/../../evil.jpg"]
)
def test_no_name_writes_outside_the_folder(tmp_path, name):
    (member,) = unpacked(tmp_path, zipped({name: b"content"}))
    assert member.path.parent == tmp_path / "into"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.zip", "into"]


def test_symlinks_are_skipped(tmp_path):
    assert unpacked(tmp_path, with_attributes("link.jpg", "/etc/passwd", stat.S_IFLNK | 0o777)) == []


@pytest.mark.parametrize("mode", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFREG | stat.S_ISUID | 0o777])
def test_every_other_kind_becomes_a_plain_file(tmp_path, mode):
    (member,) = unpacked(tmp_path, with_attributes("a.jpg", b"content", mode))
    assert member.path.is_file()
    assert not member.path.stat().st_mode & (stat.S_ISUID | 0o111)


@pytest.mark.parametrize(
    "name",
    [
        "__MACOSX/._a.jpg",
        "x/__MACOSX/a.jpg",
        "._a.jpg",
        ".DS_Store",
        "Thumbs.db",
        "x/desktop.ini",
        ".git/a.jpg",
        "x\\._a.jpg",
    ],
)
def test_what_macos_and_windows_add_is_skipped(tmp_path, name):
    assert [member.name for member in unpacked(tmp_path, zipped({name: b"junk", "a.jpg": b"1"}))] == ["a.jpg"]


def test_a_member_without_a_name_is_skipped(tmp_path):
    content = zipped({"\1.png": b"1", "a.jpg": b"1"}).replace(b"\1.png", b"\0.png")
    assert [member.name for member in unpacked(tmp_path, content)] == ["a.jpg"]


def test_folders_are_no_members(tmp_path):
    assert [m.name for m in unpacked(tmp_path, zipped({"d.jpg/": b"", "d.jpg/a.jpg": b"1"}))] == ["d.jpg/a.jpg"]


def test_a_bomb_is_refused_by_its_ratio_before_anything_is_written(tmp_path):
    content = zipped({"a.jpg": bytes(60 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    message = refusal(tmp_path, content)
    assert "'a.jpg'" in message
    assert "62,914,560" in message
    assert list((tmp_path / "into").iterdir()) == []


def test_a_directory_that_lies_about_a_size_is_not_believed(tmp_path):
    content = zipped({"a.jpg": bytes(30 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    content = patched(content, CENTRAL, CENTRAL_SIZE, "<L", 100)
    assert "'a.jpg'" in refusal(tmp_path, content)
    assert (tmp_path / "into" / "000000").stat().st_size <= 2**20


def test_what_really_comes_out_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES_OF_A_MEMBER", 1000)
    assert "more than 1,000 bytes" in refusal(tmp_path, zipped({"a.jpg": bytes(1001)}))


def test_all_members_together_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1500)
    assert "2,000 bytes: expected at most 1,500" in refusal(
        tmp_path, zipped({"a.jpg": bytes(1000), "b.jpg": bytes(1000)})
    )


def test_the_number_of_members_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_MEMBERS", 2)
    assert "3 files: expected at most 2" in refusal(tmp_path, zipped({"a": b"", "b": b"", "c": b""}))


def test_members_that_share_bytes_are_refused(tmp_path):
    content = zipped({"a.jpg": b"first", "b.jpg": b"other"})
    assert "overlap" in refusal(tmp_path, patched(content, CENTRAL, CENTRAL_OFFSET, "<L", 0))


def test_an_encrypted_member_is_refused(tmp_path):
    content = patched(zipped({"a.jpg": bytes(20)}), CENTRAL, CENTRAL_FLAGS, "<H", 1)
    message = refusal(tmp_path, patched(content, LOCAL, LOCAL_FLAGS, "<H", 1))
    assert "'a.jpg' is encrypted" in message
    assert "password" in message


@pytest.mark.parametrize("method", [9, 99])
def test_a_compression_nobody_reads_is_refused(tmp_path, method):
    content = patched(zipped({"a.jpg": bytes(20)}), CENTRAL, CENTRAL_METHOD, "<H", method)
    message = refusal(tmp_path, patched(content, LOCAL, LOCAL_METHOD, "<H", method))
    assert "'a.jpg' uses an unsupported compression" in message


def test_a_bad_checksum_is_refused_by_name(tmp_path):
    content = patched(zipped({"a.jpg": b"content"}), CENTRAL, CENTRAL_CRC, "<L", 1)
    message = refusal(tmp_path, patched(content, LOCAL, LOCAL_CRC, "<L", 1))
    assert "'a.jpg' is damaged" in message


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compressed_bytes_are_refused_by_name(tmp_path, compression):
    content = bytearray(zipped({"a.jpg": bytes(range(256)) * 40}, compression=compression))
    start = len("a.jpg") + 30
    content[start : start + 40] = b"\xff" * 40
    assert "'a.jpg' is damaged" in refusal(tmp_path, bytes(content))


def test_a_name_that_is_not_the_directorys_is_refused(tmp_path):
    content = zipped({"é.jpg": b"content"})
    content = content.replace("é".encode(), b"\xff\xfe", 1)  # no UTF-8, in the member's own header alone
    assert "jpg" in refusal(tmp_path, content)
