"""Take an archive apart without trusting it. Members are streamed to names of our own, within limits.

Knows nothing of images or captions.
"""

import itertools
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MEBIBYTE = 2**20
MOST_MEMBERS = 20_000
MOST_BYTES = 8 * 1024 * MEBIBYTE
MOST_BYTES_OF_A_MEMBER = 256 * MEBIBYTE
SUSPECT_BYTES, SUSPECT_RATIO = 50 * MEBIBYTE, 200  # photographs hardly shrink: this much from this little is a bomb
LOCAL_HEADER = 30  # bytes that a zip puts before each member's name
BLOCK = MEBIBYTE
# what zipfile and its decompressors raise at bytes that are not what the directory says
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, UnicodeDecodeError, EOFError, OSError)
JUNK_NAMES = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive: what it was called there, and where its content is now."""

    name: str
    path: Path


def unpack_archive(archive: Path, *, into: Path) -> list[Member]:
    """Stream the regular files of a zip into the new folder `into`, in the archive's order.

    Raises ValueError if it is not a zip, is damaged, encrypted, compressed in a way that cannot be read, or
    larger than the limits of this module.
    """
    into.mkdir(parents=True)
    with _open_zip(archive) as source:
        infos = [info for info in source.infolist() if _is_wanted(info)]
        _refuse_bombs(source.infolist())
        return list(_stream(source, infos, into=into))


def _open_zip(archive: Path) -> zipfile.ZipFile:
    if not archive.is_file():
        raise ValueError(f"input_images is {str(archive)!r}: there is no such file, expected a zip of images")
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        found = _looks_like(archive)
        raise ValueError(f"input_images is not a zip that can be read: found {found}, expected a zip") from error


def _looks_like(archive: Path) -> str:
    """What a file that is no readable zip seems to be."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        start = file.read(262)
    known = {
        b"PK\x03\x04": "a zip that is cut off or damaged",
        b"\x1f\x8b": "a gzip file",
        b"Rar!": "a rar archive",
        b"7z\xbc\xaf": "a 7z archive",
        b"\x89PNG": "a single PNG image",
        b"\xff\xd8\xff": "a single JPEG image",
    }
    named = [name for magic, name in known.items() if start.startswith(magic)]
    if start[257:262] == b"ustar":
        named = ["a tar archive"]
    if start.lstrip()[:1] == b"<":
        named = ["a web page"]
    return f"{named[0] if named else 'something else'} of {size:,} bytes" if size else "an empty file"


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    """Whether a member is a regular file that a person put there, and not what macOS or Windows adds."""
    parts = PurePosixPath(info.filename.replace("\\", "/")).parts
    if not parts or info.filename.endswith("/") or stat.S_ISLNK(info.external_attr >> 16):
        return False
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return not hidden and "__MACOSX" not in parts and parts[-1].lower() not in JUNK_NAMES


def _refuse_bombs(infos: list[zipfile.ZipInfo]) -> None:
    """Judge by the directory alone, before anything is inflated; `_stream` counts again, as directories lie."""
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"input_images holds {len(infos):,} files: expected at most {MOST_MEMBERS:,}")
    total = sum(info.file_size for info in infos)
    if total > MOST_BYTES:
        raise ValueError(f"input_images unpacks to {total:,} bytes: expected at most {MOST_BYTES:,}")
    for info in infos:
        if info.file_size > max(SUSPECT_BYTES, SUSPECT_RATIO * info.compress_size):
            raise ValueError(f"input_images: {info.filename!r} unpacks to {info.file_size:,} bytes from a hundredth")
    _refuse_overlaps(infos)


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes are a bomb too (CVE-2024-0450, which older Pythons do not refuse themselves)."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    for info, following in itertools.pairwise(ordered):
        if info.header_offset + LOCAL_HEADER + len(info.orig_filename) + info.compress_size > following.header_offset:
            raise ValueError(f"input_images: {info.filename!r} and {following.filename!r} overlap: not an honest zip")


def _stream(source: zipfile.ZipFile, infos: list[zipfile.ZipInfo], *, into: Path) -> Iterator[Member]:
    left = MOST_BYTES
    for index, info in enumerate(infos):
        member = Member(info.filename, into / f"{index:06}")
        left -= _copy_member(source, info, to=member.path, at_most=min(left, MOST_BYTES_OF_A_MEMBER))
        yield member


def _copy_member(source: zipfile.ZipFile, info: zipfile.ZipInfo, *, to: Path, at_most: int) -> int:
    """Copy one member in blocks, counting what really comes out; returns the count."""
    name = info.filename
    if info.flag_bits & 1:
        raise ValueError(f"input_images: {name!r} is encrypted: expected a zip without a password")
    copied = 0
    try:
        with source.open(info) as packed, to.open("wb") as file:
            while block := packed.read(BLOCK):
                copied += len(block)
                if copied > at_most:
                    raise ValueError(f"input_images: {name!r} unpacks to more than {at_most:,} bytes")
                file.write(block)
    except NotImplementedError as error:
        raise ValueError(f"input_images: {name!r} uses an unsupported compression: zip it anew") from error
    except DAMAGE as error:
        raise ValueError(f"input_images: {name!r} is damaged in the zip ({error})") from error
    return copied
