"""File names in zips are decoded correctly, whichever way their encoding is declared."""

import io
import struct
import zipfile

import pytest

from lora.dataset.archive import unpack_archive
from tests.tiny import write

JAPANESE = ["予定表.jpg", "猫.jpg", "可能.jpg", "犬とソファ.jpg", "海辺の写真.jpg"]  # some letters end in a backslash
CHINESE = ["海滩上的一只狗.jpg", "戴红帽子的女孩.jpg", "我的照片.jpg"]
WESTERN = ["café.jpg", "Mädchen mit Hut.jpg"]


def packed(names, encoding, *, extra=b""):
    """A zip whose names are in an encoding that it does not declare."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(len(names)):
            info = zipfile.ZipInfo(f"{index}".rjust(len(names[index].encode(encoding)), "#"))
            info.extra = extra
            archive.writestr(info, b"content")
    content = file.getvalue()
    for index, name in enumerate(names):
        encoded = name.encode(encoding)
        content = content.replace(f"{index}".rjust(len(encoded), "#").encode(), encoded)
    return content


def names_in(tmp_path, content):
    return [member.name for member in unpack_archive(write(tmp_path / "a.zip", content), into=tmp_path / "into")]


@pytest.mark.parametrize(
    ("names", "encoding"),
    [(JAPANESE, "cp932"), (CHINESE, "gb18030"), (WESTERN, "cp437"), (WESTERN, "utf-8"), (JAPANESE, "utf-8")],
)
def test_the_encoding_of_names_is_guessed(tmp_path, names, encoding):
    """Windows writes names in the encoding of the locale, macOS in UTF-8, both without declaring it."""
    assert names_in(tmp_path, packed(names, encoding)) == names


def test_a_name_in_an_extra_field_takes_precedence(tmp_path):
    """Info-ZIP writes this field."""
    name = "予定表.jpg".encode()
    field = struct.pack("<HHBL", 0x7075, 5 + len(name), 1, 0) + name
    assert names_in(tmp_path, packed(["rubbish.jpg"], "cp437", extra=field)) == ["予定表.jpg"]


@pytest.mark.parametrize("extra", [b"\x75\x70\x02\x00\x01\x00", b"\x75\x70\x06\x00\x01\x00\x00\x00\x00\xff", b"\x01"])
def test_a_truncated_extra_field_is_ignored(tmp_path, extra):
    assert names_in(tmp_path, packed(["a.jpg"], "cp437", extra=extra)) == ["a.jpg"]
