"""Read a tar, plain or gzipped, without trusting it: as a stream, forward only, in pieces of bounded size."""

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lora.dataset.limits import (
    BLOCK,
    MOST_BYTES_OF_A_MEMBER,
    MOST_MEMBERS,
    SUSPECT_BYTES,
    SUSPECT_RATIO,
    Budget,
)
from lora.dataset.names import PackedFile, Wanted, printable
from lora.dataset.refusal import ContentError

GZIP_MAGIC = b"\x1f\x8b"
# What tarfile, gzip and zlib raise at bytes that are no tar. A number in a header that is none is a ValueError; headers
# that announce headers end as a RecursionError.
DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError)


def tar_files(archive: Path, wanted: Wanted, budget: Budget) -> Iterator[PackedFile]:
    """The wanted regular files of a tar or a tar.gz, in its order, each to be read before the next is asked for.

    Links, devices and sparse files are left out. Raises ContentError if it is damaged or a bomb.
    """
    with archive.open("rb") as raw, _damage_explained():
        stream = _Forward(raw, budget)
        with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
            yield from _files(tar, wanted)
            stream.refuse_anything_but_the_end()


def is_tar_header(block: bytes) -> bool:
    """Whether a file that begins with this block (512 bytes) is a tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


@contextlib.contextmanager
def _damage_explained() -> Iterator[None]:
    try:
        yield
    except ContentError:
        raise
    except DAMAGE as error:
        expected = "expected a zip, tar or tar.gz of images"
        raise ContentError(f"is a tar or gzip file that cannot be read ({error}): {expected}") from error


def _files(tar: tarfile.TarFile, wanted: Wanted) -> Iterator[PackedFile]:
    for number, info in enumerate(tar, 1):
        if number > MOST_MEMBERS:
            raise ContentError(f"holds more than {MOST_MEMBERS:,} files: expected at most that")
        name = printable(info.name)
        if not info.isreg() or info.issparse() or not wanted(name):
            continue
        if info.size > MOST_BYTES_OF_A_MEMBER:
            sizes = f"{info.size:,} bytes: expected at most {MOST_BYTES_OF_A_MEMBER:,}"
            raise ContentError(f"holds {name!r}, which unpacks to {sizes}")
        yield PackedFile(name, _blocks(tar, info))


def _blocks(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    with _damage_explained():
        content = tar.extractfile(info)
        while content and (block := content.read(BLOCK)):
            yield block


class _Forward:
    """What tarfile reads from: bytes that only go forward and never many at once, counted against a budget.

    A header cannot make tarfile read itself full (it is as large as it says), nor send it back (CVE-2025-8194).
    """

    def __init__(self, raw: BinaryIO, budget: Budget) -> None:
        is_packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        self._raw, self._budget = raw, budget
        self._source = gzip.GzipFile(fileobj=raw) if is_packed else raw
        self._position, self._last = 0, b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, which may be a block at most."""
        if not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self._last = self._source.read(size)
        self._position += len(self._last)
        if self._position > max(SUSPECT_BYTES, SUSPECT_RATIO * self._raw.tell()):
            sizes = f"{self._position:,} bytes or more from {self._raw.tell():,}"
            raise ContentError(f"unpacks to {sizes}: expected photographs, not a bomb")
        self._budget.spend(len(self._last))
        return self._last

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def seek(self, position: int) -> None:
        """Read on to a position."""
        if position < self._position:
            raise tarfile.ReadError("a header points back")
        while self._position < position:
            if not self.read(min(BLOCK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")

    def refuse_anything_but_the_end(self) -> None:
        """tarfile takes any header that it cannot read for the end; the real end is zeros, or no bytes at all."""
        if any(self._last):
            raise tarfile.ReadError(f"no file begins at byte {self._position:,}")
