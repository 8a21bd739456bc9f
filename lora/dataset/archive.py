"""Take an archive apart without trusting it: its files are streamed to names of our own, within limits.

Knows nothing of captions, and of images only that a single one is no archive.
"""

import contextlib
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora.dataset.limits import MOST_ARCHIVE_BYTES, MOST_BYTES_OF_A_MEMBER, MOST_LETTERS_OF_A_NAME, Budget
from lora.dataset.names import PackedFile, Wanted, is_user_file, quoted
from lora.dataset.refusal import EXPECTED, ContentError
from lora.dataset.tars import GZIP_MAGIC, is_tar_header, tar_files
from lora.dataset.zips import is_zip, zip_files

Reader = Callable[[Path, Wanted, Budget], Iterator[PackedFile]]
OTHERS = {  # by how they begin
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
    """One file of the archive: what it was called there, and where its content is now."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that will not be trained, and why."""

    name: str
    reason: str


def unpack_archive(archive: Path, *, into: Path, wanted: Wanted = is_user_file) -> list[Member]:
    """Stream the regular files of a zip, tar or tar.gz into the new folder `into`, in the archive's order.

    Those whose name is not wanted are left out. Raises ContentError if it is no such archive, is damaged, encrypted, or
    larger than limits.py allows.
    """
    reader = _reader(archive)
    into.mkdir(parents=True)
    files = reader(archive, wanted, Budget.of_folder(into))
    return [_keep(file, into / f"{index:06}") for index, file in enumerate(files)]


def _reader(archive: Path) -> Reader:
    """By the content, as an upload has lost its name."""
    _refuse_no_file(archive)
    size = archive.stat().st_size
    if size > MOST_ARCHIVE_BYTES:
        raise ContentError(f"has {size:,} bytes: expected at most {MOST_ARCHIVE_BYTES:,}")
    with archive.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if start.startswith(GZIP_MAGIC) or is_tar_header(start):
        return tar_files
    if is_zip(archive):
        return zip_files
    raise ContentError(f"is {_looks_like(start, size)}: {EXPECTED}")


def _refuse_no_file(archive: Path) -> None:
    found = "where no file is"
    with contextlib.suppress(OSError):  # of a name too long for any file, or below a folder that may not be entered
        if archive.is_file():
            return
        found = "a folder" if archive.is_dir() else found
    raise ContentError(f"is {quoted(str(archive))}, {found}: {EXPECTED}")


def _looks_like(start: bytes, size: int) -> str:
    """What a file that is no archive of ours seems to be."""
    if not size:
        return "an empty file"
    if not any(start):
        return f"an empty tar, or nothing but zeros, of {size:,} bytes"
    if start.lstrip()[:1] == b"<":
        return f"a web page of {size:,} bytes"
    named = [name for magic, name in OTHERS.items() if start.startswith(magic)]
    return f"{named[0] if named else 'something else'} of {size:,} bytes"


def _keep(file: PackedFile, path: Path) -> Member:
    """Copy one file in blocks, counting what really comes out."""
    if len(file.name) > MOST_LETTERS_OF_A_NAME:
        raise ContentError(f"holds {quoted(file.name)}, a name of {len(file.name):,} letters: expected a shorter one")
    copied = 0
    with path.open("wb") as output:
        for block in file.blocks:
            copied += len(block)
            if copied > MOST_BYTES_OF_A_MEMBER:
                limit = f"{MOST_BYTES_OF_A_MEMBER:,} bytes"
                raise ContentError(
                    f"holds {quoted(file.name)}, which unpacks to more than {limit}: expected at most that"
                )
            output.write(block)
    return Member(file.name, path)
