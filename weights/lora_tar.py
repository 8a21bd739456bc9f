"""Find the one LoRA in a tar without extracting anything, reading it once from front to back."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from weights.lora_file import shown

MOST_MEMBERS = 10_000
MOST_BYTES = 4 * 2**30  # of one LoRA, and of all that is unpacked on the way
UNSUSPICIOUS_BYTES = 50 * 2**20  # may be unpacked from anything; reference/reliability.md, section 4
MOST_TIMES = 200  # its packed size, of what is more; numbers of weights hardly shrink at all
MOST_HEADER_BYTES = 2**20  # of long names and notes before the files, all together; each usually has a hundred
HEADERS = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
HEADERS |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
SHOWN = 3  # how many names an error repeats
START = 512  # bytes that tell what a file is
GZIP = b"\x1f\x8b"


def is_tar(start: bytes) -> bool:
    """Whether the first 512 bytes are those of a tar, by the mark that every such file has, or of a gzipped file."""
    return start[257:262] == b"ustar" or start.startswith(GZIP)


def lora_in_tar(file: BinaryIO) -> bytes:
    """The content of the only regular .safetensors file in a tar, gzipped or not.

    Raises ValueError with the end of a sentence if there is none or several, or if it is too large or damaged.
    """
    gzipped = file.read(len(GZIP)) == GZIP
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    source = _Counted(gzip.GzipFile(fileobj=file) if gzipped else file, packed)
    try:
        with _Tar.open(fileobj=source, mode="r|") as tar:  # type: ignore[call-overload]
            return _only_lora(tar)
    except _RefusedError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise ValueError(f"is a damaged tar ({error})") from error
    except (ValueError, LookupError) as error:  # of tarfile itself, about a number or a text
        raise ValueError("is a damaged tar (a header holds what cannot be read)") from error


class _RefusedError(ValueError):
    """A sentence of ours, and none of tarfile's."""


class _Info(tarfile.TarInfo):
    """A member that is refused before tarfile reads more of it into memory than a LoRA needs."""

    def _proc_member(self, tar: "_Tar") -> tarfile.TarInfo:
        """Where tarfile lets a subclass begin."""
        if self.type in HEADERS:
            tar.header_bytes += self.size
        if tar.header_bytes > MOST_HEADER_BYTES:
            raise _RefusedError(f"is a tar with over {MOST_HEADER_BYTES:,} bytes of headers: expected a LoRA")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _refuse_sparse(self, *_: object) -> tarfile.TarInfo:
        raise _RefusedError("is a tar with a file that has holes (a sparse one): expected plain files")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Tar(tarfile.TarFile):
    tarinfo = _Info
    header_bytes = 0  # so far


class _Counted:
    """A file that ends with an error instead of unpacking without end."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, packed: int) -> None:
        self.file = file
        self.packed = packed  # bytes
        self.count = 0

    def read(self, size: int) -> bytes:
        piece = self.file.read(size)
        self.count += len(piece)
        if self.count > MOST_BYTES:
            raise _RefusedError(
                f"is a tar that unpacks to more than {MOST_BYTES:,} bytes: expected a LoRA and captions"
            )
        if self.count > max(UNSUSPICIOUS_BYTES, MOST_TIMES * self.packed):
            raise _RefusedError(f"is a tar that unpacks to more than {MOST_TIMES} times its size: expected a LoRA")
        return piece


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
        found = ", ".join(shown(name) for name in names[:SHOWN]) or "none"
        raise _RefusedError(f"is a tar with {len(names)} .safetensors files ({found}): expected exactly one")
    return content


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, start=1):
        if count > MOST_MEMBERS:
            raise _RefusedError(f"is a tar with more than {MOST_MEMBERS:,} files: expected a LoRA and its captions")
        if member.size > MOST_BYTES or member.size < 0:
            raise _RefusedError(f"is a tar with a file of {member.size:,} bytes: expected at most {MOST_BYTES:,}")
        yield member


def _is_lora(member: tarfile.TarInfo) -> bool:
    """Links and devices are never followed, and what macOS adds beside a file is not the file."""
    name = member.name.rsplit("/", 1)[-1]
    return member.isreg() and name.endswith(".safetensors") and not name.startswith("._")
