"""Is a safetensors file whole? Reads its header and a little of each large tensor. Knows no model."""

from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import safetensors
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

LENGTH_BYTES = 8  # a safetensors file begins with the length of its header
MOST_HEADER_BYTES = 10 * 2**20  # those of FLUX have some 200 KB
BEGINNING_BYTES = 1024  # enough to know a file of another kind by
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LARGE_BYTES = 2**20  # of a tensor that is looked into
LOOK_BYTES = 4096
MATRIX = 2  # dimensions; vectors, such as biases, may well be zero


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]  # from the end of the header

    @property
    def bytes(self) -> int:
        """How long it is in the file."""
        return self.data_offsets[1] - self.data_offsets[0]


@dataclass(frozen=True, slots=True)
class Header:
    """Where the tensors of a file are."""

    tensors: dict[str, TensorEntry]
    data: int  # the position at which their bytes begin


HEADERS = TypeAdapter(dict[str, TensorEntry | dict[str, str]])  # texts under `__metadata__`


def check_weight_file(path: Path) -> None:
    """Raises ValueError with a sentence that begins with the path: a file of another kind, one cut short or too long,
    a header that contradicts itself, a large matrix with a hole of zeros, as a broken download leaves it.

    The layout is that of https://huggingface.co/docs/safetensors, which its own library judges.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _header(file, path, size)
        _check_length(header, path, size)
        _check_layout(path)
        _check_for_holes(file, header, path)


def refuse_pointer(path: Path) -> None:
    """Raises ValueError with a sentence that begins with the path if git-lfs left a pointer in place of the file."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a git-lfs pointer: expected the file that it stands for")


def _header(file: BufferedReader, path: Path, size: int) -> Header:
    wrong = f"{path} is no safetensors file: found {_looks_like(file, size)}, expected weights in that format"
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    begins = file.read(1)
    if size <= LENGTH_BYTES or length > MOST_HEADER_BYTES or begins != b"{":
        raise ValueError(wrong)
    data = LENGTH_BYTES + length
    if data > size:
        raise ValueError(f"{path} ends within its header: found {size:,} bytes, expected more than {data:,}")
    try:
        entries = HEADERS.validate_json(begins + file.read(length - 1))
    except ValidationError as error:
        raise ValueError(wrong) from error
    return Header({name: entry for name, entry in entries.items() if isinstance(entry, TensorEntry)}, data)


def _looks_like(file: BufferedReader, size: int) -> str:
    """Leaves the file at its beginning."""
    begins = file.read(BEGINNING_BYTES)
    file.seek(0)
    if not begins.strip(b"\0"):
        return f"{size:,} bytes that begin with zeros" if begins else "an empty file"
    return "a web page" if begins.lstrip().startswith(b"<") else f"{size:,} other bytes"


def _check_length(header: Header, path: Path, size: int) -> None:
    expected = header.data + max((entry.data_offsets[1] for entry in header.tensors.values()), default=0)
    found = f"found {size:,} bytes, expected {expected:,}"
    if size < expected:
        raise ValueError(f"{path} is cut short, {expected - size:,} bytes are missing: {found}")
    if size > expected:
        raise ValueError(f"{path} is {size - expected:,} bytes too long: {found}")


def _check_layout(path: Path) -> None:
    """Types, shapes and offsets agree, and leave no gap; of the file, only the header is read."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged: found a header that contradicts itself ({_on_one_line(error)})"
        ) from error


def _check_for_holes(file: BufferedReader, header: Header, path: Path) -> None:
    for name, entry in header.tensors.items():
        if len(entry.shape) < MATRIX or entry.bytes < LARGE_BYTES:
            continue
        file.seek(header.data + entry.data_offsets[0] + (entry.bytes - LOOK_BYTES) // 2)
        if not any(file.read(LOOK_BYTES)):
            raise ValueError(f"{path} has a hole: found only zeros in the middle of {name!r:.80}, expected weights")


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
