"""Reads an untrusted zip: checks its directory first, and counts every unpacked byte."""

import contextlib
import io
import itertools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from lora.dataset.limits import (
    BLOCK,
    HEAD,
    MAX_DIRECTORY_BYTES,
    MAX_MEMBERS,
    SUSPECT_BYTES,
    SUSPECT_RATIO,
    SUSPECT_TOTAL,
    SUSPECT_TOTAL_RATIO,
    Budget,
)
from lora.dataset.names import Listed, NameFilter, PackedFile, is_user_file, quoted
from lora.dataset.refusal import ContentError
from lora.dataset.zip_names import decode_names

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = 30  # bytes before the name of each member
ENCRYPTED = 0x1  # flag of a member
# Used by nearly every zip. zipfile decompresses its other methods (bzip2, LZMA) without a bound: a megabyte of them can
# become gigabytes.
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# Raised by zipfile and zlib for bytes that do not match the directory; an impossible offset is a ValueError.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, OSError)
MAX_OF_A_REASON = 200  # letters of a message of zipfile, which may contain long names


def list_zip(archive: Path, known: NameFilter) -> Iterator[Listed]:
    """Yield the user's files in a zip. The first bytes are read of those that `known` rejects.

    Raises ContentError if the directory of the zip is damaged.
    """
    with _opened(archive) as (source, infos):
        for info in infos:
            if _is_file(info) and is_user_file(info.filename):
                head = b"" if known(info.filename) else _head(source, info)
                yield Listed(info.filename, info.file_size, head)


def zip_files(archive: Path, wanted: NameFilter, budget: Budget) -> Iterator[PackedFile]:
    """Yield the regular files of a zip that `wanted` accepts. Read each file before requesting the next.

    Raises ContentError if the zip is damaged, encrypted, a decompression bomb, or compressed by an unsupported method.
    Files that are not wanted are not read, so they may be as large as they like.
    """
    with _opened(archive) as (source, members):
        infos = [info for info in members if _is_file(info) and wanted(info.filename)]
        _refuse_bombs(infos, budget)
        _refuse_unreadable(infos)
        for info in infos:
            yield PackedFile(info.filename, _blocks(source, info))


def is_zip(archive: Path) -> bool:
    """Whether a file is a zip, by its first bytes or by its end: a zip may be preceded by any bytes."""
    with archive.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return True
    try:
        return zipfile.is_zipfile(archive)
    except zipfile.BadZipFile:  # a part of a multi-part zip; opening it reports the error
        return True


class _BoundedReader(io.BufferedReader):
    """A file that limits how much zipfile reads at once: zipfile trusts the declared size of the directory."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes; raises ContentError if that is more than any legitimate directory has."""
        if size and size > MAX_DIRECTORY_BYTES:
            found = f"a directory of {size:,} bytes"
            raise ContentError(f"holds {found}: expected at most {MAX_DIRECTORY_BYTES:,}, or {MAX_MEMBERS:,} files")
        return super().read(size)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """A zip and its members, with decoded names. Their number and their places are checked, not their sizes."""
    with _BoundedReader(io.FileIO(archive)) as file, _open(file) as source:
        infos = source.infolist()
        if len(infos) > MAX_MEMBERS:
            raise ContentError(f"holds {len(infos):,} files: expected at most {MAX_MEMBERS:,}")
        decode_names(infos)
        _refuse_overlaps(infos)
        yield source, infos


def _head(source: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The first bytes of a file; none if it cannot be read, as it may not be needed."""
    if info.flag_bits & ENCRYPTED or info.compress_type not in READABLE:
        return b""
    try:
        with source.open(info) as compressed:
            return compressed.read(HEAD)
    except (NotImplementedError, *DAMAGE):
        return b""


def _open(file: io.BufferedReader) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except ContentError:
        raise
    except (NotImplementedError, *DAMAGE) as error:
        raise ContentError(f"is a zip that is cut off or damaged ({_reason(error)}): zip it again") from error


def _reason(error: Exception) -> str:
    return str(error)[:MAX_OF_A_REASON] or "its bytes end too early"


def _is_file(info: zipfile.ZipInfo) -> bool:
    return not info.filename.endswith(("/", "\\")) and not stat.S_ISLNK(info.external_attr >> 16)


def _refuse_bombs(infos: list[zipfile.ZipInfo], budget: Budget) -> None:
    """Check the declared sizes before anything is decompressed. They may be wrong, so the bytes are counted again."""
    total, compressed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    budget.check(total)
    if total > max(SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO * compressed):
        raise ContentError(
            f"unpacks to {total:,} bytes from {compressed:,}: expected photographs, not a decompression bomb"
        )
    for info in infos:
        if info.file_size > max(SUSPECT_BYTES, SUSPECT_RATIO * info.compress_size):
            sizes = f"{info.file_size:,} bytes from {info.compress_size:,}"
            found = f"holds {quoted(info.filename)}, which unpacks to {sizes}"
            raise ContentError(f"{found}: expected photographs, not a decompression bomb")


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse members that share bytes, another kind of bomb (CVE-2024-0450, not rejected by older Pythons)."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    for info, following in itertools.pairwise(ordered):
        if info.header_offset + LOCAL_HEADER + len(info.orig_filename) + info.compress_size > following.header_offset:
            pair = f"{quoted(info.filename)} and {quoted(following.filename)}"
            raise ContentError(f"holds {pair}, which overlap: expected a zip whose files do not")


def _refuse_unreadable(infos: list[zipfile.ZipInfo]) -> None:
    for info in infos:
        if info.flag_bits & ENCRYPTED:
            raise ContentError(f"holds {quoted(info.filename)}, which is encrypted: expected a zip without a password")
        if info.compress_type not in READABLE:
            compression = f"an unsupported compression (number {info.compress_type})"
            raise ContentError(f"holds {quoted(info.filename)}, which uses {compression}: zip it again")


def _blocks(source: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    name = quoted(info.filename)
    try:
        with source.open(info) as compressed:
            while block := compressed.read(BLOCK):
                yield block
    except NotImplementedError as error:  # patched data, or strong encryption
        raise ContentError(f"holds {name}, which cannot be read ({_reason(error)}): zip it again") from error
    except DAMAGE as error:
        raise ContentError(f"holds {name}, which is damaged ({_reason(error)}): zip it again") from error
