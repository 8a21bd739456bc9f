"""Read a zip without trusting it: what its directory says is judged first, and every byte is counted by the reader."""

import io
import itertools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from lora.dataset.limits import (
    BLOCK,
    MOST_DIRECTORY_BYTES,
    MOST_MEMBERS,
    SUSPECT_BYTES,
    SUSPECT_RATIO,
    SUSPECT_TOTAL,
    SUSPECT_TOTAL_RATIO,
    Budget,
)
from lora.dataset.names import PackedFile, Wanted, quoted
from lora.dataset.refusal import ContentError
from lora.dataset.zip_names import decode_names

MAGIC = b"PK\x03\x04"
LOCAL_HEADER = 30  # bytes that a zip puts before each member's name
ENCRYPTED = 0x1  # the flag of a member
# What almost every zip uses. The others that zipfile reads (bzip2, LZMA) it inflates without a bound: a megabyte of
# them can be gigabytes.
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# what zipfile and zlib raise at bytes that are not what the directory says; a place that no file has is a ValueError
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, OSError)
MOST_OF_A_REASON = 200  # letters of what zipfile says, which may hold endless names


def zip_files(archive: Path, wanted: Wanted, budget: Budget) -> Iterator[PackedFile]:
    """The wanted regular files of a zip, in its order, each to be read before the next is asked for.

    Raises ContentError if it is damaged, encrypted, compressed in a way that cannot be read, or a bomb.
    """
    with _Bounded(io.FileIO(archive)) as file, _opened(file) as source:
        infos = source.infolist()
        _refuse_bombs(infos, budget)
        decode_names(infos)
        infos = [info for info in infos if _is_file(info) and wanted(info.filename)]
        _refuse_unreadable(infos)
        for info in infos:
            yield PackedFile(info.filename, _blocks(source, info, budget))


def is_zip(archive: Path) -> bool:
    """By how it begins, or by how it ends, as anything may stand before a zip."""
    with archive.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return True
    try:
        return zipfile.is_zipfile(archive)
    except zipfile.BadZipFile:  # one in several parts, as is said when it is opened
        return True


class _Bounded(io.BufferedReader):
    """A file that does not let zipfile read itself full: a directory is as large as it says."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises ContentError at a size that no directory of a person has."""
        if size and size > MOST_DIRECTORY_BYTES:
            found = f"a list of its files of {size:,} bytes"
            raise ContentError(f"holds {found}: expected at most {MOST_DIRECTORY_BYTES:,}, or {MOST_MEMBERS:,} files")
        return super().read(size)


def _opened(file: io.BufferedReader) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except ContentError:
        raise
    except (NotImplementedError, *DAMAGE) as error:
        raise ContentError(f"is a zip that is cut off or damaged ({_reason(error)}): zip it anew") from error


def _reason(error: Exception) -> str:
    return str(error)[:MOST_OF_A_REASON] or "its bytes end too early"


def _is_file(info: zipfile.ZipInfo) -> bool:
    return not info.filename.endswith(("/", "\\")) and not stat.S_ISLNK(info.external_attr >> 16)


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
            raise ContentError(
                f"holds {quoted(info.filename)}, which unpacks to {sizes}: expected photographs, not a bomb"
            )
    _refuse_overlaps(infos)


def _refuse_overlaps(infos: list[zipfile.ZipInfo]) -> None:
    """Members that share bytes are a bomb too (CVE-2024-0450, which older Pythons do not refuse themselves)."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    for info, following in itertools.pairwise(ordered):
        if info.header_offset + LOCAL_HEADER + len(info.orig_filename) + info.compress_size > following.header_offset:
            pair = f"{quoted(info.filename)} and {quoted(following.filename)}"
            raise ContentError(f"holds {pair}, which overlap: expected a zip whose files have bytes of their own")


def _refuse_unreadable(infos: list[zipfile.ZipInfo]) -> None:
    for info in infos:
        if info.flag_bits & ENCRYPTED:
            raise ContentError(f"holds {quoted(info.filename)}, which is encrypted: expected a zip without a password")
        if info.compress_type not in READABLE:
            compression = f"an unsupported compression (number {info.compress_type})"
            raise ContentError(f"holds {quoted(info.filename)}, which uses {compression}: zip it anew")


def _blocks(source: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    name = quoted(info.filename)
    try:
        with source.open(info) as packed:
            while block := packed.read(BLOCK):
                budget.spend(len(block))
                yield block
    except ContentError:
        raise
    except NotImplementedError as error:  # patched, or encrypted in a way of its own
        raise ContentError(f"holds {name}, which cannot be read ({_reason(error)}): zip it anew") from error
    except DAMAGE as error:
        raise ContentError(f"holds {name}, which is damaged ({_reason(error)}): zip it anew") from error
