"""Finds the LoRA in a tar, and PEFT's settings beside it. Extracts nothing, and reads the tar from start to end, once
for its names and once for its content."""

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from weights.adapter_metadata import LONGEST_CONFIG
from weights.file_choice import SUFFIX, choice_note, config_beside, loras_in, pickles_note, preferred_lora
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
    with open_tar(_source(file)) as tar:
        names = [member.name for member in _members(tar) if member.isreg()]
    loras = loras_in(names)
    chosen = _chosen(loras, names)
    with open_tar(_source(file)) as tar:
        return _read(tar, chosen, choice_note(loras, chosen))


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


def _source(file: BinaryIO) -> _LimitedReader:
    """The tar in a file from its beginning, unpacked if it is gzipped."""
    file.seek(0)
    gzipped = file.read(len(GZIP)) == GZIP
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    return _LimitedReader(gzip.GzipFile(fileobj=file) if gzipped else file, packed)


def _chosen(loras: Sequence[str], names: Sequence[str]) -> str:
    chosen = preferred_lora(loras) if loras else None
    if chosen is None:
        found = ", ".join(quoted(name) for name in loras[:SHOWN]) or "none"
        pickles = "" if loras else pickles_note(names)
        raise RefusedTar(f"is a tar with {len(loras)} {SUFFIX} files ({found}){pickles}: expected exactly one")
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
            raise RefusedTar(f"is a tar with more than {MAX_MEMBERS:,} files: expected a LoRA and its captions")
        if member.size > MAX_BYTES or member.size < 0:
            raise RefusedTar(f"is a tar with a file of {member.size:,} bytes: expected at most {MAX_BYTES:,}")
        yield member
