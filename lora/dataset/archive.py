"""Unpacks an untrusted archive: streams its files to generated names, within limits.

Knows nothing about captions, and recognizes an image only to report that it is not an archive.
"""

import contextlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora.dataset.limits import MAX_ARCHIVE_BYTES, MAX_BYTES_OF_A_MEMBER, MAX_NAME_LENGTH, Budget
from lora.dataset.names import Listed, NameFilter, PackedFile, is_user_file, quoted
from lora.dataset.refusal import EXPECTED, ContentError
from lora.dataset.tars import GZIP_MAGIC, is_tar_header, list_tar, tar_files
from lora.dataset.zips import is_zip, list_zip, zip_files


@dataclass(frozen=True, slots=True)
class _Format:
    lists: Callable[[Path, NameFilter], Iterator[Listed]]
    files: Callable[[Path, NameFilter, Budget], Iterator[PackedFile]]


ZIP, TAR = _Format(list_zip, zip_files), _Format(list_tar, tar_files)
OTHER_FORMATS = {  # by their first bytes
    b"Rar!": "a rar archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89PNG": "a single PNG image",
    b"\xff\xd8\xff": "a single JPEG image",
    b"GIF8": "a single GIF image",
    b"RIFF": "a single WebP image",
    b"%PDF": "a PDF",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive: its name there, and the path of its unpacked content."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used in training, and the reason."""

    name: str
    reason: str


def list_archive(archive: Path, *, known: NameFilter) -> list[Listed]:
    """The user's files in a zip, tar or tar.gz, in its order, without unpacking them.

    The first bytes are read of the files whose names the filter `known` rejects. Raises ContentError as
    `unpack_archive` does, but for the sizes of files, which only matter if they are unpacked.
    """
    listed = []
    for file in _format(archive).lists(archive, known):
        _refuse_long_name(file.name)
        listed.append(file)
    return listed


def unpack_archive(archive: Path, *, into: Path, wanted: NameFilter = is_user_file) -> list[Member]:
    """Stream the regular files of a zip, tar or tar.gz into the new folder `into`, in the order of the archive.

    Skips files whose names the filter `wanted` rejects. Raises ContentError if the file is no such archive, or if it is
    damaged, encrypted, or larger than limits.py allows.
    """
    files = _format(archive).files
    into.mkdir(parents=True)
    budget = Budget.of_folder(into)
    return [
        _write_member(file, into / f"{index:06}", budget) for index, file in enumerate(files(archive, wanted, budget))
    ]


def _format(archive: Path) -> _Format:
    """Recognize the format by the content, because an upload may have no file name."""
    _refuse_missing_file(archive)
    size = archive.stat().st_size
    if size > MAX_ARCHIVE_BYTES:
        raise ContentError(f"has {size:,} bytes: expected at most {MAX_ARCHIVE_BYTES:,}")
    with archive.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if start.startswith(GZIP_MAGIC) or is_tar_header(start):
        return TAR
    if is_zip(archive):
        return ZIP
    raise ContentError(f"is {_describe(start, size)}: {EXPECTED}")


def _refuse_missing_file(archive: Path) -> None:
    found = "where no file is"
    with contextlib.suppress(OSError):  # the name is too long for a file, or a folder above it is not accessible
        if archive.is_file():
            return
        found = "a folder" if archive.is_dir() else found
    raise ContentError(f"is {quoted(str(archive))}, {found}: {EXPECTED}")


def _describe(start: bytes, size: int) -> str:
    """What a file that is not a supported archive appears to be."""
    if not size:
        return "an empty file"
    if not any(start):
        return f"an empty tar, or only zeros, of {size:,} bytes"
    if start.lstrip()[:1] == b"<":
        return f"a web page of {size:,} bytes"
    named = [name for magic, name in OTHER_FORMATS.items() if start.startswith(magic)]
    return f"{named[0] if named else 'something else'} of {size:,} bytes"


def _refuse_long_name(name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise ContentError(f"holds {quoted(name)}, a name of {len(name):,} characters: expected a shorter one")


def _write_member(file: PackedFile, path: Path, budget: Budget) -> Member:
    """Copy a file in blocks, counting the bytes that are actually unpacked."""
    _refuse_long_name(file.name)
    copied = 0
    with path.open("wb") as output:
        for block in file.blocks:
            budget.spend(len(block))
            copied += len(block)
            if copied > MAX_BYTES_OF_A_MEMBER:
                limit = f"{MAX_BYTES_OF_A_MEMBER:,} bytes"
                raise ContentError(
                    f"holds {quoted(file.name)}, which unpacks to more than {limit}: expected at most that"
                )
            output.write(block)
    return Member(file.name, path)
