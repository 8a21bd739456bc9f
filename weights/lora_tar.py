"""Finds the only LoRA in a tar. Extracts nothing, and reads the tar once from start to end."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from weights.printed import quoted
from weights.tar_stream import GZIP, RefusedTar, open_tar

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 2**30  # of one LoRA, and of everything unpacked before it
UNCHECKED_BYTES = 50 * 2**20  # may be unpacked from a file of any size; reference/reliability.md, section 4
MAX_TIMES = 200  # the packed size, above UNCHECKED_BYTES; weights are hardly compressible
SHOWN = 3  # number of names in an error
START_BYTES = 512  # of a file, enough to recognise its format


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
    with open_tar(source) as tar:
        return _only_lora(tar)


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
            raise RefusedTar(f"is a tar that unpacks to more than {MAX_BYTES:,} bytes: expected a LoRA and captions")
        if self.count > max(UNCHECKED_BYTES, MAX_TIMES * self.packed):
            raise RefusedTar(f"is a tar that unpacks to more than {MAX_TIMES} times its size: expected a LoRA")
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
        raise RefusedTar(f"is a tar with {len(names)} .safetensors files ({found}): expected exactly one")
    return content


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, start=1):
        if count > MAX_MEMBERS:
            raise RefusedTar(f"is a tar with more than {MAX_MEMBERS:,} files: expected a LoRA and its captions")
        if member.size > MAX_BYTES or member.size < 0:
            raise RefusedTar(f"is a tar with a file of {member.size:,} bytes: expected at most {MAX_BYTES:,}")
        yield member


def _is_lora(member: tarfile.TarInfo) -> bool:
    """Whether a member is a regular .safetensors file. Links, devices and the ._ files of macOS are ignored."""
    name = member.name.rsplit("/", 1)[-1]
    return member.isreg() and name.endswith(".safetensors") and not name.startswith("._")
