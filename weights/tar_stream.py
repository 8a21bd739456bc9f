"""Opens a tar that is not trusted as a stream. Extracts nothing, limits what headers take in memory."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

MAX_HEADER_BYTES = 2**20  # of long names and PAX records together; a file usually has about a hundred bytes of them
HEADERS = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
HEADERS |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
GZIP = b"\x1f\x8b"


class Readable(Protocol):
    """A file or a stream."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`."""


class RefusedTar(ValueError):  # noqa: N818 - a definite answer about the tar
    """A tar that is refused for what it contains; the message completes a sentence."""


@contextmanager
def open_tar(source: Readable) -> Iterator[tarfile.TarFile]:
    """Open a tar that is read once from start to end.

    Raises RefusedTar for a sparse file and for too many headers, and ValueError for a damaged tar; the message
    completes a sentence. A ValueError of the block that is no RefusedTar counts as one of the tar's headers.
    """
    try:
        with _Tar.open(fileobj=source, mode="r|") as tar:  # type: ignore[call-overload]
            yield tar
    except RefusedTar:
        raise
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, RecursionError) as error:
        raise ValueError(f"is a damaged tar ({error})") from error
    except (ValueError, LookupError) as error:  # of tarfile itself, for an invalid number or text
        raise ValueError("is a damaged tar (a header cannot be read)") from error


class _Member(tarfile.TarInfo):
    """A member of a tar, checked before tarfile reads more of it into memory than needed."""

    def _proc_member(self, tar: "_Tar") -> tarfile.TarInfo:
        """The hook that tarfile documents for subclasses."""
        if self.type in HEADERS:
            tar.header_bytes += self.size
        if tar.header_bytes > MAX_HEADER_BYTES:
            raise RefusedTar(f"is a tar with over {MAX_HEADER_BYTES:,} bytes of headers: expected plain files")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _refuse_sparse(self, *_: object) -> tarfile.TarInfo:
        raise RefusedTar("is a tar with a sparse file: expected plain files")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Tar(tarfile.TarFile):
    tarinfo = _Member
    header_bytes = 0  # so far


def unpacked(source: Readable, start: bytes) -> Readable:
    """Return the tar in a source that may be gzipped, whose first bytes are `start` and were read already."""
    whole = _Prefixed(start, source)
    if start.startswith(GZIP):
        return gzip.GzipFile(fileobj=whole)  # type: ignore[call-overload] # it only reads
    return whole


class _Prefixed:
    """A stream with bytes put back in front of it."""

    def __init__(self, start: bytes, rest: Readable) -> None:
        self.start, self.rest = start, rest

    def read(self, size: int) -> bytes:
        chunk, self.start = self.start[:size], self.start[size:]
        return chunk or self.rest.read(size)
