"""Reads an untrusted tar or tar.gz: forward only, in blocks of bounded size, one header at a time.

tarfile parses single headers, but does not read the archive: it keeps all headers in memory, recurses for each header
that describes another, and in older Pythons takes quadratic time for long headers (CVE-2024-6232).
"""

import contextlib
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lora.dataset.limits import (
    BLOCK,
    HEAD,
    MAX_BYTES_OF_A_MEMBER,
    MAX_BYTES_SKIPPED,
    MAX_MEMBERS,
    SUSPECT_BYTES,
    SUSPECT_RATIO,
    SUSPECT_TOTAL,
    SUSPECT_TOTAL_RATIO,
    Budget,
)
from lora.dataset.names import Listed, NameFilter, PackedFile, is_user_file, printable, quoted
from lora.dataset.refusal import EXPECTED, ContentError

GZIP_MAGIC = b"\x1f\x8b"
DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError)  # raised for bytes that are not a valid tar or gzip
FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
# Links, devices and folders: they have no content, whatever size they declare.
EMPTY = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
IGNORED = {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}  # headers that change neither the name nor the size of a file
DESCRIBES_NEXT = PAX | IGNORED | {tarfile.GNUTYPE_LONGNAME}
LISTED_SIZE = "FLUX-LORA.size"  # the pax keyword with which script/train packs a file that is not used, without content
LISTED = LISTED_SIZE.encode()
MAX_HEADERS_PER_FILE = 8  # headers; ordinary tars have two or three
MAX_DIGITS = 20  # in a number of bytes
MORE_IN_HEADER, MORE_IN_MAP = 482, 504  # offsets of the flags that an old GNU sparse map continues


def list_tar(archive: Path, known: NameFilter) -> Iterator[Listed]:
    """Yield the user's regular files in a tar or tar.gz. The first bytes are read of those that `known` rejects.

    Raises ContentError if the archive is damaged.
    """
    for entry, stream in _walk(archive, wanted=lambda _: False):
        if entry.is_file and is_user_file(entry.name):
            head = b"" if known(entry.name) else stream.read_exactly(min(entry.size, HEAD))
            yield Listed(entry.name, entry.listed_size, head)


def tar_files(archive: Path, wanted: NameFilter, budget: Budget) -> Iterator[PackedFile]:
    """Yield the regular files of a tar or tar.gz that `wanted` accepts. Read each file before requesting the next.

    Skips links, devices and sparse files. Raises ContentError if the archive is damaged or a decompression bomb.
    """
    for entry, stream in _walk(archive, wanted):
        if entry.is_file and wanted(entry.name):
            _refuse_size(entry, budget)
            yield PackedFile(entry.name, _blocks(stream, entry.size))


def is_tar_header(block: bytes) -> bool:
    """Whether a block (the first 512 bytes of a file) is the header of a tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int  # bytes of content, without the padding to whole blocks
    listed_size: int  # of the file outside of the archive, where that has only its name
    is_file: bool  # a regular file that is not sparse


@contextlib.contextmanager
def _damage_reported() -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ContentError(f"is a tar or gzip file that cannot be read ({error}): {EXPECTED}") from error


def _walk(archive: Path, wanted: NameFilter) -> Iterator[tuple[_Entry, "_ForwardStream"]]:
    """Yield each entry with the stream at its content, and skip what the caller leaves of it.

    What is skipped of a user's file that is not wanted counts towards no limit but that of skipped bytes.
    """
    with archive.open("rb") as raw, _damage_reported():
        stream = _ForwardStream(raw)
        for number, entry in enumerate(_entries(stream), 1):
            if number > MAX_MEMBERS:
                raise ContentError(f"holds more than {MAX_MEMBERS:,} files: expected at most that")
            end = stream.position + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield entry, stream
            stream.skip_to(end, is_free=entry.is_file and is_user_file(entry.name) and not wanted(entry.name))
        stream.skip_to_end()


def _refuse_size(entry: _Entry, budget: Budget) -> None:
    """Check a declared size before anything is read."""
    if entry.size > MAX_BYTES_OF_A_MEMBER:
        sizes = f"{entry.size:,} bytes: expected at most {MAX_BYTES_OF_A_MEMBER:,}"
        raise ContentError(f"holds {quoted(entry.name)}, which unpacks to {sizes}")
    budget.check(budget.spent + entry.size)


def _blocks(stream: "_ForwardStream", size: int) -> Iterator[bytes]:
    with _damage_reported():
        while size > 0:
            block = stream.read_exactly(min(BLOCK, size))
            size -= len(block)
            yield block


def _entries(stream: "_ForwardStream") -> Iterator[_Entry]:
    """Yield the entries. The caller skips the content of an entry before it requests the next one."""
    metadata: dict[bytes, bytes] = {}
    headers = 0
    while block := stream.header():
        header = _header(block, stream)
        if header.type not in DESCRIBES_NEXT:
            yield _entry(header, block, metadata, stream)
            metadata, headers = {}, 0
            continue
        headers += 1
        if headers > MAX_HEADERS_PER_FILE:
            raise tarfile.ReadError(f"more than {MAX_HEADERS_PER_FILE} headers about one file")
        metadata |= _read_metadata(header, stream)
    if metadata:
        raise tarfile.ReadError("unexpected end of data")


def _header(block: bytes, stream: "_ForwardStream") -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        start = stream.position - len(block)
        raise tarfile.ReadError(f"no file starts at byte {start:,}" if start else "it holds no tar") from error
    if header.size < 0:
        raise tarfile.ReadError(f"a file of {header.size:,} bytes")
    return header


def _entry(header: tarfile.TarInfo, block: bytes, metadata: dict[bytes, bytes], stream: "_ForwardStream") -> _Entry:
    if header.type == tarfile.GNUTYPE_SPARSE:
        _skip_sparse_map(block, stream)
    name = _decode_name(metadata.get(b"path") or header.name.encode("utf-8", "surrogateescape"))
    size = _number(metadata[b"size"]) if b"size" in metadata else header.size
    is_sparse = any(keyword.startswith(b"GNU.sparse.") for keyword in metadata)
    is_file = header.type in FILES and not is_sparse and not name.endswith("/")
    size = 0 if header.type in EMPTY else size
    listed_size = _number(metadata[LISTED]) if LISTED in metadata else size
    return _Entry(printable(name), size, listed_size, is_file)


def _decode_name(name: bytes) -> str:
    """Decode a name as UTF-8, else as cp437 like names in zips: possibly wrong, but distinct names stay distinct."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _skip_sparse_map(block: bytes, stream: "_ForwardStream") -> None:
    """Skip the blocks that continue the map of an old GNU sparse file."""
    is_more = block[MORE_IN_HEADER]
    while is_more:
        is_more = stream.read_exactly(tarfile.BLOCKSIZE)[MORE_IN_MAP]


def _read_metadata(header: tarfile.TarInfo, stream: "_ForwardStream") -> dict[bytes, bytes]:
    """What a header says about the next file, by pax keyword."""
    if header.size > BLOCK:
        raise tarfile.ReadError(f"a header of {header.size:,} bytes")
    content = stream.read_exactly(-(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)[: header.size]
    if header.type in IGNORED:
        return {}
    return _records(content) if header.type in PAX else {b"path": content.partition(b"\0")[0]}


def _records(content: bytes) -> dict[bytes, bytes]:
    """Parse pax records: `<length of the record> <keyword>=<value>` and a newline."""
    records, position = {}, 0
    while position < len(content):
        digits = content[position : position + MAX_DIGITS].partition(b" ")[0]
        start, end = position + len(digits) + 1, position + _number(digits)
        if not start < end <= len(content):
            raise tarfile.ReadError(f"a record of {end - position:,} bytes in a header of {len(content):,}")
        keyword, _, value = content[start : end - 1].partition(b"=")
        records[keyword] = value
        position = end
    return records


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > MAX_DIGITS:
        raise tarfile.ReadError(f"an invalid number of bytes, {digits[:MAX_DIGITS]!r}")
    return int(digits)


class _ForwardStream:
    """A stream that is only read forward, in blocks of bounded size."""

    def __init__(self, raw: BinaryIO) -> None:
        is_compressed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self._length = None if is_compressed else raw.seek(0, os.SEEK_END)
        raw.seek(0)
        self._raw = raw
        self._source = gzip.GzipFile(fileobj=raw) if is_compressed else raw
        self.position = 0
        self._free = 0  # bytes that were skipped and do not count

    def header(self) -> bytes:
        """The next block, or no bytes at the end of the tar: a block of zeros, or the end of the file."""
        block = self._read(tarfile.BLOCKSIZE)
        if not block and not self.position:
            raise tarfile.ReadError("it is empty")
        return block if any(block) else b""

    def read_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes, at most one block."""
        content = self._read(size)
        if len(content) < size:
            raise tarfile.ReadError("unexpected end of data")
        return content

    def skip_to(self, position: int, *, is_free: bool) -> None:
        """Go to a position; what is skipped does not count as unpacked if it `is_free`."""
        if self._length is not None:
            if position > self._length:
                raise tarfile.ReadError("unexpected end of data")
            self.position = self._raw.seek(position)
        while self.position < position:
            size = min(BLOCK, position - self.position)
            self._free += size if is_free else 0
            if self._free > MAX_BYTES_SKIPPED:
                found = f"more than {MAX_BYTES_SKIPPED:,} bytes of files that are not images"
                raise ContentError(f"holds {found}: expected an archive without them, or a zip")
            self.read_exactly(size)

    def skip_to_end(self) -> None:
        """Read up to the end, where a gzip file has its checksum."""
        while self._read(BLOCK):
            pass

    def _read(self, size: int) -> bytes:
        content = self._source.read(size)
        self.position += len(content)
        compressed = self._raw.tell()
        most = max(SUSPECT_BYTES, SUSPECT_RATIO * compressed), max(SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO * compressed)
        if self.position - self._free > min(most):
            sizes = f"{self.position - self._free:,} bytes or more from {compressed:,}"
            raise ContentError(f"unpacks to {sizes}: expected photographs, not a decompression bomb")
        return content
