"""Helpers for tests with unusual and malicious archives."""

import io
import struct
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lora.dataset.archive import Member, unpack_archive
from lora.dataset.refusal import ContentError
from tests.tiny import assert_one_sentence, write


def unpacked(folder: Path, content: bytes) -> list[Member]:
    """The members of an archive; asserts that nothing was written outside their folder."""
    try:
        members = unpack_archive(write(folder / "sent", content), into=folder / "into")
    finally:
        assert {path.name for path in folder.iterdir()} <= {"sent", "into"}
    assert all(member.path.parent == folder / "into" and member.path.is_file() for member in members)
    return members


def contents(folder: Path, content: bytes) -> dict[str, bytes]:
    """The contents of the members of an archive, by name."""
    return {member.name: member.path.read_bytes() for member in unpacked(folder, content)}


def refusal(folder: Path, content: bytes) -> str:
    """The error message for an archive that is refused; asserts that it is one sentence."""
    with pytest.raises(ContentError) as error:
        unpacked(folder, content)
    assert_one_sentence(error.value)
    return str(error.value)


def peak_of(action: Callable[[], object]) -> int:
    """The peak of the memory that Python allocates during an action, in bytes."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def tarred(members: Mapping[str, bytes], **options: object) -> bytes:
    """The bytes of a tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def patched(content: bytes, header: bytes, offset: int, packing: str, value: int) -> bytes:
    """The archive with one field changed in each header of one kind."""
    changed, at = bytearray(content), -1
    while (at := changed.find(header, at + 1)) >= 0:
        struct.pack_into(packing, changed, at + offset, value)
    return bytes(changed)
