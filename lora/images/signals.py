"""Finds out whether an image file holds an HDR signal: PQ or HLG of ITU-R BT.2100, declared in one of four ways.

The numbers are those of ITU-T H.273 (CICP), which PNG, AVIF, HEIC and ICC profiles all use. A gain map is none of them:
the image that it belongs to is an ordinary one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from PIL import ImageFile

from lora.images.boxes import boxes, first_box

BT2020, P3 = 9, 12  # primaries
MAX_CHUNKS = 1_000  # before the pixels of a PNG
MAX_HEAD_BYTES = 2**20  # in which the metadata of an AVIF are
PNG_MAGIC_BYTES, CHUNK_HEADER, CHUNK_CHECKSUM = 8, 8, 4
ICC_TAG_TABLE, ICC_TAG, MAX_ICC_TAGS = 128, 12, 200
NAMED_PQ = re.compile(r"\bPQ\b|ST ?2084", re.IGNORECASE)
NAMED_HLG = re.compile(r"\bHLG\b|hybrid.log.gamma", re.IGNORECASE)
NAMED_P3 = re.compile(r"P3", re.IGNORECASE)


class Transfer(IntEnum):
    """A transfer function of an HDR signal."""

    PQ = 16
    HLG = 18


@dataclass(frozen=True, slots=True)
class Signal:
    """How the pixels of an HDR image are encoded."""

    transfer: Transfer
    primaries: int


def hdr_signal(image: ImageFile.ImageFile, path: Path) -> Signal | None:
    """The HDR signal of an opened image file, or None for an ordinary image.

    Of a PNG, `cICP` takes precedence over the ICC profile, as its specification says; of other files, the profile.
    """
    profile: bytes = image.info.get("icc_profile") or b""
    if image.format == "PNG" and (chunk := _cicp_of_png(path)):
        return _signal(chunk[0], chunk[1])
    if profile:
        return _signal_of_profile(profile)
    if image.format == "AVIF" and (declared := _cicp_of_avif(path)):
        return _signal(declared[0], declared[1])
    nclx = image.info.get("nclx_profile")  # pi-heif's name
    return _signal(nclx["color_primaries"], nclx["transfer_characteristics"]) if nclx else None


def _signal(primaries: int, transfer: int) -> Signal | None:
    return Signal(Transfer(transfer), primaries) if transfer in tuple(Transfer) else None


def _cicp_of_png(path: Path) -> bytes | None:
    """The content of the chunk `cICP`, which comes before the pixels."""
    with path.open("rb") as file:
        file.seek(PNG_MAGIC_BYTES)
        for _ in range(MAX_CHUNKS):
            header = file.read(CHUNK_HEADER)
            kind, size = header[4:], int.from_bytes(header[:4])
            if kind == b"cICP":
                content = file.read(4)
                return content if len(content) == size else None
            if kind in (b"IDAT", b""):
                return None
            file.seek(size + CHUNK_CHECKSUM, 1)
    return None


def _cicp_of_avif(path: Path) -> tuple[int, int] | None:
    """The primaries and the transfer function of the primary item; a gain map is another item, with its own."""
    with path.open("rb") as file:
        head = file.read(MAX_HEAD_BYTES)
    try:
        meta = first_box(head, b"meta")
        inside = dict(boxes(meta[4:])) if meta else {}
        properties = first_box(inside.get(b"iprp", b""), b"ipco")
        associations = first_box(inside.get(b"iprp", b""), b"ipma")
        if properties is None or associations is None:
            return None
        listed, primary = list(boxes(properties)), _primary_item(inside.get(b"pitm", b""))
        for index in _properties_of(primary, associations):
            kind, content = listed[index - 1] if 0 < index <= len(listed) else (b"", b"")
            if kind == b"colr" and content[:4] == b"nclx":
                return int.from_bytes(content[4:6]), int.from_bytes(content[6:8])
    except ValueError:  # damaged: decoding says so
        return None
    return None


def _primary_item(pitm: bytes) -> int:
    return int.from_bytes(pitm[4:6] if pitm[:1] == b"\0" else pitm[4:8])


def _properties_of(item: int, ipma: bytes) -> Iterator[int]:
    """Yield the numbers, from 1, of the properties that an item has."""
    id_bytes = 2 if ipma[:1] == b"\0" else 4
    index_bytes = 2 if ipma[3:4] and ipma[3] & 1 else 1
    position = 8
    while position < len(ipma):
        found = int.from_bytes(ipma[position : position + id_bytes])
        count = int.from_bytes(ipma[position + id_bytes : position + id_bytes + 1])
        position += id_bytes + 1
        for _ in range(count):
            number = int.from_bytes(ipma[position : position + index_bytes])
            if found == item:
                yield number & (0x7FFF if index_bytes == 2 else 0x7F)  # noqa: PLR2004 - the first bit says "essential"
            position += index_bytes


def _signal_of_profile(profile: bytes) -> Signal | None:
    """By the tag `cicp` (ICC.1:2022), else by the description, as older HDR profiles have nothing else."""
    tags = dict(_tags(profile))
    declared = tags.get(b"cicp", b"")
    if len(declared) >= 12:  # noqa: PLR2004 - a type, four reserved bytes, and the four numbers
        return _signal(declared[8], declared[9])
    description = tags.get(b"desc", b"").replace(b"\0", b"").decode("latin-1")
    named = {Transfer.PQ: NAMED_PQ, Transfer.HLG: NAMED_HLG}
    transfer = next((transfer for transfer, name in named.items() if name.search(description)), None)
    if transfer is None:
        return None
    return Signal(transfer, P3 if NAMED_P3.search(description) else BT2020)


def _tags(profile: bytes) -> Iterator[tuple[bytes, bytes]]:
    count = int.from_bytes(profile[ICC_TAG_TABLE : ICC_TAG_TABLE + 4])
    for start in range(ICC_TAG_TABLE + 4, ICC_TAG_TABLE + 4 + ICC_TAG * min(count, MAX_ICC_TAGS), ICC_TAG):
        offset, size = (int.from_bytes(profile[at : at + 4]) for at in (start + 4, start + 8))
        yield profile[start : start + 4], profile[offset : offset + size]
