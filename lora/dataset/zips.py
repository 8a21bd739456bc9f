"""Read a zip without trusting it: what its directory says is judged first, and every byte is counted by the reader."""

import contextlib
import itertools
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from lora.dataset.limits import (
    BLOCK,
    MOST_MEMBERS,
    SUSPECT_BYTES,
    SUSPECT_RATIO,
    SUSPECT_TOTAL,
    SUSPECT_TOTAL_RATIO,
    Budget,
)
from lora.dataset.names import PackedFile, is_wanted, printable

LOCAL_HEADER = 30  # bytes that a zip puts before each member's name
ENCRYPTED, UTF_8 = 0x1, 0x800  # flags of a member
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
# what zipfile and its decompressors raise at bytes that are not what the directory says
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, UnicodeDecodeError, EOFError, OSError)


def zip_files(archive: Path, budget: Budget) -> Iterator[PackedFile]:
    """The regular files of a zip, in its order, each to be read before the next is asked for.

    Raises ValueError if it is damaged, encrypted, compressed in a way that cannot be read, or a bomb.
    """
    try:
        source = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise ValueError("input_images is a zip that is cut off or damaged: expected one that opens") from error
    with source:
        wanted = [info for info in source.infolist() if _is_wanted(info)]
        _refuse_bombs(source, budget)
        _refuse_unreadable(wanted)
        for info in wanted:
            name = _name(info)
            yield PackedFile(name, _blocks(source, info, budget))


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    is_file = not info.filename.endswith(("/", "\\")) and not stat.S_ISLNK(info.external_attr >> 16)
    return is_file and is_wanted(_name(info))


def _name(info: zipfile.ZipInfo) -> str:
    """The name as it was meant: macOS writes UTF-8 without saying so, which zipfile then reads as cp437."""
    name = info.filename
    if not info.flag_bits & UTF_8:
        with contextlib.suppress(UnicodeError):  # then it is what zipfile took it for
            name = name.encode("cp437").decode("utf-8")
    return printable(name)


def _refuse_bombs(source: zipfile.ZipFile, budget: Budget) -> None:
    """Judge by the directory alone, before anything is inflated; the bytes are counted again, as directories lie."""
    infos = source.infolist()
    if len(infos) > MOST_MEMBERS:
        raise ValueError(f"input_images holds {len(infos):,} files: expected at most {MOST_MEMBERS:,}")
    total, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    budget.refuse(total)
    if total > max(SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO * packed):
        raise ValueError(f"input_images unpacks to {total:,} bytes from {packed:,}: expected photographs, not a bomb")
    for info in infos:
        if info.file_size > max(SUSPECT_BYTES, SUSPECT_RATIO * info.compress_size):
            sizes = f"{info.file_size:,} bytes from {info.compress_size:,}"
            raise ValueError(f"input_images: {_name(info)!r} unpacks to {sizes}: expected photographs, not a bomb")
    _refuse_overlaps(infos)


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes are a bomb too (CVE-2024-0450, which older Pythons do not refuse themselves)."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    for info, following in itertools.pairwise(ordered):
        if info.header_offset + LOCAL_HEADER + len(info.orig_filename) + info.compress_size > following.header_offset:
            pair = f"{_name(info)!r} and {_name(following)!r}"
            raise ValueError(f"input_images: {pair} overlap: expected a zip whose files have bytes of their own")


def _refuse_unreadable(infos: list[zipfile.ZipInfo]) -> None:
    for info in infos:
        if info.flag_bits & ENCRYPTED:
            raise ValueError(f"input_images: {_name(info)!r} is encrypted: expected a zip without a password")
        if info.compress_type not in READABLE:
            raise ValueError(f"input_images: {_name(info)!r} uses an unsupported compression: zip it anew")


def _blocks(source: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    name = _name(info)
    try:
        with source.open(info) as packed:
            while block := packed.read(BLOCK):
                budget.spend(len(block))
                yield block
    except (NotImplementedError, RuntimeError) as error:  # what the member's own header asks for, against the directory
        raise ValueError(f"input_images: {name!r} cannot be read from the zip ({error}): zip it anew") from error
    except DAMAGE as error:
        raise ValueError(f"input_images: {name!r} is damaged in the zip ({error})") from error
