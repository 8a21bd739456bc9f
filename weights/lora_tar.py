"""Finds the LoRA in a tar, and PEFT's settings beside it. Extracts nothing, and reads the tar from start to end, once
for its names and once for its content."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from weights.adapter_metadata import LONGEST_CONFIG
from weights.file_choice import SUFFIX, choice_note, config_beside, loras_in, pickles_note, preferred_lora
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


@dataclass(frozen=True, slots=True)
class LoraInTar:
    """A LoRA in a tar."""

    content: bytes
    config: str  # of PEFT, from beside it; may be empty
    note: str  # what to log if it was chosen among several; may be empty


def lora_in_tar(file: BinaryIO) -> LoraInTar:
    """Return the only regular .safetensors file in a tar, gzipped or not, or the final one beside checkpoints.

    Raises ValueError if there is none or it is not clear which, and for a tar that is too large or damaged; the message
    completes a sentence.
    """
    try:
        with _opened(file) as tar:
            names = [member.name for member in _members(tar) if member.isreg()]
        loras = loras_in(names)
        chosen = _chosen(loras, names)
        with _opened(file) as tar:
            return _read(tar, chosen, choice_note(loras, chosen))
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


def _opened(file: BinaryIO) -> _Tar:
    file.seek(0)
    gzipped = file.read(len(GZIP)) == GZIP
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    source = _LimitedReader(gzip.GzipFile(fileobj=file) if gzipped else file, packed)
    return _Tar.open(fileobj=source, mode="r|")  # type: ignore[call-overload]


def _chosen(loras: Sequence[str], names: Sequence[str]) -> str:
    chosen = preferred_lora(loras) if loras else None
    if chosen is None:
        found = ", ".join(quoted(name) for name in loras[:SHOWN]) or "none"
        pickles = "" if loras else pickles_note(names)
        raise _RefusedError(f"is a tar with {len(loras)} {SUFFIX} files ({found}){pickles}: expected exactly one")
    return chosen


def _read(tar: tarfile.TarFile, chosen: str, note: str) -> LoraInTar:
    """Read the chosen LoRA and the settings beside it, which may come before or after it."""
    config = config_beside(chosen)
    limits = {chosen: MAX_BYTES, config: LONGEST_CONFIG}
    found: dict[str, bytes] = {}
    for member in _members(tar):
        if member.isreg() and member.size <= limits.get(member.name, -1):
            file = tar.extractfile(member)
            found[member.name] = file.read() if file else b""
    return LoraInTar(found[chosen], found.get(config, b"").decode(errors="replace"), note)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, start=1):
        if count > MAX_MEMBERS:
            raise _RefusedError(f"is a tar with more than {MAX_MEMBERS:,} files: expected a LoRA and its captions")
        if member.size > MAX_BYTES or member.size < 0:
            raise _RefusedError(f"is a tar with a file of {member.size:,} bytes: expected at most {MAX_BYTES:,}")
        yield member
