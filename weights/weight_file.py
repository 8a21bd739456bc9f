"""Checks that a safetensors file is undamaged. Reads its header and a few bytes of large tensors. Knows no model."""

from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import safetensors
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from weights.printed import message_of, quoted

LENGTH_BYTES = 8  # a safetensors file starts with the length of its header
MAX_HEADER_BYTES = 10 * 2**20  # the headers of FLUX have about 200 KB
START_BYTES = 1024  # read to describe a file in another format
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LARGE_BYTES = 2**20  # minimum size of a tensor whose content is checked
SAMPLE_BYTES = 4096
MATRIX_DIMENSIONS = 2  # vectors, such as biases, may be zero


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The entry of one tensor in the header."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]  # from the end of the header

    @property
    def bytes(self) -> int:
        """Size of the tensor in the file."""
        return self.data_offsets[1] - self.data_offsets[0]


@dataclass(frozen=True, slots=True)
class Header:
    """The positions of the tensors of a file."""

    tensors: dict[str, TensorEntry]
    data: int  # offset of the tensor data in the file


HEADERS = TypeAdapter(dict[str, TensorEntry | dict[str, str]])  # the dict of strings is `__metadata__`


def check_weight_file(path: Path) -> None:
    """Check a safetensors file; see https://huggingface.co/docs/safetensors for the format.

    Raises ValueError, with a sentence that starts with the path, for a file in another format, a file that is too short
    or too long, an inconsistent header (as checked by the safetensors library), and a large matrix with zeros in its
    middle, which incomplete downloads leave.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _header(file, path, size)
        _check_length(header, path, size)
        _check_layout(path)
        _check_for_holes(file, header, path)


def refuse_pointer(path: Path) -> None:
    """Raise ValueError, with a sentence that starts with the path, if the file is a git-lfs pointer."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a git-lfs pointer: expected the file itself")


def _header(file: BufferedReader, path: Path, size: int) -> Header:
    message = f"{path} is not a safetensors file: found {_describe(file, size)}, expected weights in that format"
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    start = file.read(1)
    if size <= LENGTH_BYTES or length > MAX_HEADER_BYTES or start != b"{":
        raise ValueError(message)
    data = LENGTH_BYTES + length
    if data > size:
        raise ValueError(f"{path} ends within its header: found {size:,} bytes, expected more than {data:,}")
    try:
        entries = HEADERS.validate_json(start + file.read(length - 1))
    except ValidationError as error:
        raise ValueError(message) from error
    return Header({name: entry for name, entry in entries.items() if isinstance(entry, TensorEntry)}, data)


def _describe(file: BufferedReader, size: int) -> str:
    """Describe the start of a file for an error. Seeks to the start of the file."""
    start = file.read(START_BYTES)
    file.seek(0)
    if not start.strip(b"\0"):
        return f"{size:,} bytes that begin with zeros" if start else "an empty file"
    return "a web page" if start.lstrip().startswith(b"<") else f"{size:,} other bytes"


def _check_length(header: Header, path: Path, size: int) -> None:
    expected = header.data + max((entry.data_offsets[1] for entry in header.tensors.values()), default=0)
    found = f"found {size:,} bytes, expected {expected:,}"
    if size < expected:
        raise ValueError(f"{path} is cut short, {expected - size:,} bytes are missing: {found}")
    if size > expected:
        raise ValueError(f"{path} is {size - expected:,} bytes too long: {found}")


def _check_layout(path: Path) -> None:
    """Check that types, shapes and offsets agree and leave no gap. Only the header of the file is read."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: found an inconsistent header ({message_of(error)})") from error


def _check_for_holes(file: BufferedReader, header: Header, path: Path) -> None:
    for name, entry in header.tensors.items():
        if len(entry.shape) < MATRIX_DIMENSIONS or entry.bytes < LARGE_BYTES:
            continue
        file.seek(header.data + entry.data_offsets[0] + (entry.bytes - SAMPLE_BYTES) // 2)
        if not any(file.read(SAMPLE_BYTES)):
            raise ValueError(f"{path} is damaged: found only zeros in the middle of {quoted(name)}, expected weights")
