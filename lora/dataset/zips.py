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
from lora.dataset.names import PackedFile, Wanted, printable
from lora.dataset.refusal import ContentError

LOCAL_HEADER = 30  # bytes that a zip puts before each member's name
ENCRYPTED, UTF_8 = 0x1, 0x800  # flags of a member
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
# what zipfile and its decompressors raise at bytes that are not what the directory says
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, UnicodeDecodeError, EOFError, OSError)


def zip_files(archive: Path, wanted: Wanted, budget: Budget) -> Iterator[PackedFile]:
    """The wanted regular files of a zip, in its order, each to be read before the next is asked for.

    Raises ContentError if it is damaged, encrypted, compressed in a way that cannot be read, or a bomb.
    """
    try:
        source = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise ContentError(f"is a zip that is cut off or damaged ({error}): zip it anew") from error
    with source:
        _refuse_bombs(source.infolist(), budget)
        infos = [info for info in source.infolist() if _is_file(info) and wanted(_name(info))]
        _refuse_unreadable(infos)
        for info in infos:
            yield PackedFile(_name(info), _blocks(source, info, budget))


def _is_file(info: zipfile.ZipInfo) -> bool:
    return not info.filename.endswith(("/", "\\")) and not stat.S_ISLNK(info.external_attr >> 16)


def _name(info: zipfile.ZipInfo) -> str:
    """The name as it was meant: macOS writes UTF-8 without saying so, which zipfile then reads as cp437."""
    name = info.filename
    if not info.flag_bits & UTF_8:
        with contextlib.suppress(UnicodeError):  # then it is what zipfile took it for
            name = name.encode("cp437").decode("utf-8")
    return printable(name)


def _refuse_bombs(infos: list[zipfile.ZipInfo], budget: Budget) -> None:
    """Judge by the directory alone, before anything is inflated; the bytes are counted again, as directories lie."""
    if len(infos) > MOST_MEMBERS:
        raise ContentError(f"holds {len(infos):,} files: expected at most {MOST_MEMBERS:,}")
    total, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    budget.refuse(total)
    if total > max(SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO * packed):
        raise ContentError(f"unpacks to {total:,} bytes from {packed:,}: expected photographs, not a bomb")
    for info in infos:
        if info.file_size > max(SUSPECT_BYTES, SUSPECT_RATIO * info.compress_size):
            sizes = f"{info.file_size:,} bytes from {info.compress_size:,}"
            raise ContentError(f"holds {_name(info)!r}, which unpacks to {sizes}: expected photographs, not a bomb")
    _refuse_overlaps(infos)


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes are a bomb too (CVE-2024-0450, which older Pythons do not refuse themselves)."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    for info, following in itertools.pairwise(ordered):
        if info.header_offset + LOCAL_HEADER + len(info.orig_filename) + info.compress_size > following.header_offset:
            pair = f"{_name(info)!r} and {_name(following)!r}"
            raise ContentError(f"holds {pair}, which overlap: expected a zip whose files have bytes of their own")


def _refuse_unreadable(infos: list[zipfile.ZipInfo]) -> None:
    for info in infos:
        if info.flag_bits & ENCRYPTED:
            raise ContentError(f"holds {_name(info)!r}, which is encrypted: expected a zip without a password")
        if info.compress_type not in READABLE:
            raise ContentError(f"holds {_name(info)!r}, which uses an unsupported compression: zip it anew")


def _blocks(source: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    name = _name(info)
    try:
        with source.open(info) as packed:
            while block := packed.read(BLOCK):
                budget.spend(len(block))
                yield block
    except (NotImplementedError, RuntimeError) as error:  # what the member's own header asks for, against the directory
        raise ContentError(f"holds {name!r}, which cannot be read ({error}): zip it anew") from error
    except DAMAGE as error:
        raise ContentError(f"holds {name!r}, which is damaged ({error}): zip it anew") from error
