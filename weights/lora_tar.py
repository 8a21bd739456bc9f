"""Finds the only LoRA in a tar. Extracts nothing, and reads the tar once from start to end."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from weights.printed import quoted

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 2**30  # of one LoRA, and of everything unpacked before it
UNCHECKED_BYTES = 50 * 2**20  # may be unpacked from a file of any size; reference/reliability.md, section 4
MAX_TIMES = 200  # the packed size, above UNCHECKED_BYTES; weights are hardly compressible
MAX_HEADER_BYTES = 2**20  # of long names and PAX records together; a file usually has about a hundred bytes of them
HEADERS = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
HEADERS |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
SHOWN = 3  # number of names in an error
START_BYTES = 512  # of a file, enough to recognise its format
GZIP = b"\x1f\x8b"


def is_tar(start: bytes) -> bool:
    """Whether a file is a tar or a gzipped file, from its first 512 bytes."""
    return start[257:262] == b"ustar" or start.startswith(GZIP)


def lora_in_tar(file: BinaryIO) -> bytes:
    """Return the content of the only regular .safetensors file in a tar, gzipped or not.

    Raises ValueError if there is none or several, and for a tar that is too large or damaged; the message completes a
    sentence.
    """
    gzipped = file.read(len(GZIP)) == GZIP
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    source = _LimitedReader(gzip.GzipFile(fileobj=file) if gzipped else file, packed)
    try:
        with _Tar.open(fileobj=source, mode="r|") as tar:  # type: ignore[call-overload]
            return _only_lora(tar)
    except _RefusedError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise ValueError(f"is a damaged tar ({error})") from error
    except (ValueError, LookupError) as error:  # of tarfile itself, for an invalid number or text
        raise ValueError("is a damaged tar (a header cannot be read)") from error


class _RefusedError(ValueError):
    """An error of this module, as opposed to a ValueError of tarfile."""


class _Member(tarfile.TarInfo):
    """A member of a tar, checked before tarfile reads more of it into memory than a LoRA needs."""

    def _proc_member(self, tar: "_Tar") -> tarfile.TarInfo:
        """The hook that tarfile documents for subclasses."""
        if self.type in HEADERS:
            tar.header_bytes += self.size
        if tar.header_bytes > MAX_HEADER_BYTES:
            raise _RefusedError(f"is a tar with over {MAX_HEADER_BYTES:,} bytes of headers: expected a LoRA")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _refuse_sparse(self, *_: object) -> tarfile.TarInfo:
        raise _RefusedError("is a tar with a sparse file: expected plain files")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Tar(tarfile.TarFile):
    tarinfo = _Member
    header_bytes = 0  # so far


class _LimitedReader:
    """A file that raises an error when it unpacks to too many bytes."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, packed: int) -> None:
        self.file = file
        self.packed = packed  # bytes
        self.count = 0

    def read(self, size: int) -> bytes:
        chunk = self.file.read(size)
        self.count += len(chunk)
        if self.count > MAX_BYTES:
            raise _RefusedError(f"is a tar that unpacks to more than {MAX_BYTES:,} bytes: expected a LoRA and captions")
        if self.count > max(UNCHECKED_BYTES, MAX_TIMES * self.packed):
            raise _RefusedError(f"is a tar that unpacks to more than {MAX_TIMES} times its size: expected a LoRA")
        return chunk


def _only_lora(tar: tarfile.TarFile) -> bytes:
    names, content = [], b""
    for member in _members(tar):
        if not _is_lora(member):
            continue
        names.append(member.name)
        if len(names) == 1:
            file = tar.extractfile(member)
            content = file.read() if file else b""
    if len(names) != 1:
        found = ", ".join(quoted(name) for name in names[:SHOWN]) or "none"
        raise _RefusedError(f"is a tar with {len(names)} .safetensors files ({found}): expected exactly one")
    return content


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, start=1):
        if count > MAX_MEMBERS:
            raise _RefusedError(f"is a tar with more than {MAX_MEMBERS:,} files: expected a LoRA and its captions")
        if member.size > MAX_BYTES or member.size < 0:
            raise _RefusedError(f"is a tar with a file of {member.size:,} bytes: expected at most {MAX_BYTES:,}")
        yield member


def _is_lora(member: tarfile.TarInfo) -> bool:
    """Whether a member is a regular .safetensors file. Links, devices and the ._ files of macOS are ignored."""
    name = member.name.rsplit("/", 1)[-1]
    return member.isreg() and name.endswith(".safetensors") and not name.startswith("._")
