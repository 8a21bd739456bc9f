"""Read a tar, plain or gzipped, without trusting it: forward only, in pieces of bounded size, one header at a time.

Headers are taken apart by tarfile, but not read by it: it remembers them all, calls itself for each header that speaks
of another, and in older Pythons takes the square of a header's length to read it (CVE-2024-6232).
"""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lora.dataset.limits import (
    BLOCK,
    MOST_BYTES_OF_A_MEMBER,
    MOST_MEMBERS,
    SUSPECT_BYTES,
    SUSPECT_RATIO,
    SUSPECT_TOTAL,
    SUSPECT_TOTAL_RATIO,
    Budget,
)
from lora.dataset.names import PackedFile, Wanted, printable, quoted
from lora.dataset.refusal import EXPECTED, ContentError

GZIP_MAGIC = b"\x1f\x8b"
DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError)  # what is raised at bytes that are no tar or no gzip
FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
# links, devices and folders, which nothing follows, whatever size they say
EMPTY = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
UNREAD = {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}  # headers that say nothing of what a file holds or is called
ABOUT_THE_NEXT = PAX | UNREAD | {tarfile.GNUTYPE_LONGNAME}
MOST_ABOUT_ONE_FILE = 8  # two or three in any tar of a person
MOST_DIGITS = 20  # of a number of bytes
MORE_IN_HEADER, MORE_IN_MAP = 482, 504  # bytes of an old sparse file that say whether its map goes on


def tar_files(archive: Path, wanted: Wanted, budget: Budget) -> Iterator[PackedFile]:
    """The wanted regular files of a tar or a tar.gz, in its order, each to be read before the next is asked for.

    Links, devices and sparse files are left out. Raises ContentError if it is damaged or a bomb.
    """
    with archive.open("rb") as raw, _damage_explained():
        stream = _Forward(raw, budget)
        for number, entry in enumerate(_entries(stream), 1):
            if number > MOST_MEMBERS:
                raise ContentError(f"holds more than {MOST_MEMBERS:,} files: expected at most that")
            end = stream.position + -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if entry.is_file and wanted(entry.name):
                _refuse_size(entry)
                yield PackedFile(entry.name, _blocks(stream, entry.size))
            stream.skip_to(end)
        stream.skip_the_rest()


def is_tar_header(block: bytes) -> bool:
    """Whether a file that begins with this block (512 bytes) is a tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int  # bytes that follow, before they are filled up to whole blocks
    is_file: bool  # regular, and all there


@contextlib.contextmanager
def _damage_explained() -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ContentError(f"is a tar or gzip file that cannot be read ({error}): {EXPECTED}") from error


def _refuse_size(entry: _Entry) -> None:
    if entry.size > MOST_BYTES_OF_A_MEMBER:
        sizes = f"{entry.size:,} bytes: expected at most {MOST_BYTES_OF_A_MEMBER:,}"
        raise ContentError(f"holds {quoted(entry.name)}, which unpacks to {sizes}")


def _blocks(stream: "_Forward", size: int) -> Iterator[bytes]:
    with _damage_explained():
        while size > 0:
            block = stream.exactly(min(BLOCK, size))
            size -= len(block)
            yield block


def _entries(stream: "_Forward") -> Iterator[_Entry]:
    """What the headers say, to be asked for the next when the stream has passed what follows the last."""
    told: dict[bytes, bytes] = {}
    headers = 0
    while block := stream.header():
        header = _header(block, stream)
        if header.type not in ABOUT_THE_NEXT:
            yield _entry(header, block, told, stream)
            told, headers = {}, 0
            continue
        headers += 1
        if headers > MOST_ABOUT_ONE_FILE:
            raise tarfile.ReadError(f"more than {MOST_ABOUT_ONE_FILE} headers about one file")
        told |= _told(header, stream)
    if told:
        raise tarfile.ReadError("unexpected end of data")


def _header(block: bytes, stream: "_Forward") -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        start = stream.position - len(block)
        raise tarfile.ReadError(f"no file begins at byte {start:,}" if start else "it holds no tar") from error
    if header.size < 0:
        raise tarfile.ReadError(f"a file of {header.size:,} bytes")
    return header


def _entry(header: tarfile.TarInfo, block: bytes, told: dict[bytes, bytes], stream: "_Forward") -> _Entry:
    if header.type == tarfile.GNUTYPE_SPARSE:
        _skip_map(block, stream)
    name = _text(told.get(b"path") or header.name.encode("utf-8", "surrogateescape"))
    size = _number(told[b"size"]) if b"size" in told else header.size
    is_sparse = any(keyword.startswith(b"GNU.sparse.") for keyword in told)
    is_file = header.type in FILES and not is_sparse and not name.endswith("/")
    return _Entry(printable(name), 0 if header.type in EMPTY else size, is_file)


def _text(name: bytes) -> str:
    """Names that are no UTF-8 are read as those of zips are: not as they were meant, but no two become the same."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _skip_map(block: bytes, stream: "_Forward") -> None:
    """Where an old sparse file has its holes, if its own header had no room for them all."""
    is_more = block[MORE_IN_HEADER]
    while is_more:
        is_more = stream.exactly(tarfile.BLOCKSIZE)[MORE_IN_MAP]


def _told(header: tarfile.TarInfo, stream: "_Forward") -> dict[bytes, bytes]:
    """What a header says of the file after it, by the keywords of pax."""
    if header.size > BLOCK:
        raise tarfile.ReadError(f"a header of {header.size:,} bytes")
    content = stream.exactly(-(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)[: header.size]
    if header.type in UNREAD:
        return {}
    return _records(content) if header.type in PAX else {b"path": content.partition(b"\0")[0]}


def _records(content: bytes) -> dict[bytes, bytes]:
    """Of the form `<length of all of this> <keyword>=<value>` and a newline."""
    records, position = {}, 0
    while position < len(content):
        digits = content[position : position + MOST_DIGITS].partition(b" ")[0]
        start, end = position + len(digits) + 1, position + _number(digits)
        if not start < end <= len(content):
            raise tarfile.ReadError(f"a record of {end - position:,} bytes in a header of {len(content):,}")
        keyword, _, value = content[start : end - 1].partition(b"=")
        records[keyword] = value
        position = end
    return records


def _number(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > MOST_DIGITS:
        raise tarfile.ReadError(f"a number of bytes that is {digits[:MOST_DIGITS]!r}")
    return int(digits)


class _Forward:
    """Bytes that only go forward and never many at once, counted against a budget."""

    def __init__(self, raw: BinaryIO, budget: Budget) -> None:
        is_packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        self._raw, self._budget = raw, budget
        self._source = gzip.GzipFile(fileobj=raw) if is_packed else raw
        self.position = 0

    def header(self) -> bytes:
        """The next block; none at the end, which is a block of zeros, or no bytes at all."""
        block = self._read(tarfile.BLOCKSIZE)
        if not block and not self.position:
            raise tarfile.ReadError("it is empty")
        return block if any(block) else b""

    def exactly(self, size: int) -> bytes:
        """So many bytes, which may be a block at most."""
        content = self._read(size)
        if len(content) < size:
            raise tarfile.ReadError("unexpected end of data")
        return content

    def skip_to(self, position: int) -> None:
        """Read on to a position."""
        while self.position < position:
            self.exactly(min(BLOCK, position - self.position))

    def skip_the_rest(self) -> None:
        """Read on to the end, where a gzip file has its checksum."""
        while self._read(BLOCK):
            pass

    def _read(self, size: int) -> bytes:
        content = self._source.read(size)
        self.position += len(content)
        packed = self._raw.tell()
        most = max(SUSPECT_BYTES, SUSPECT_RATIO * packed), max(SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO * packed)
        if self.position > min(most):
            sizes = f"{self.position:,} bytes or more from {packed:,}"
            raise ContentError(f"unpacks to {sizes}: expected photographs, not a bomb")
        self._budget.spend(len(content))
        return content
