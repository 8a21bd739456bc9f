"""Reads the boxes of HEIC and AVIF files (ISO/IEC 14496-12): a size, a kind of four letters, and a content."""

from collections.abc import Iterator

HEADER, WIDE_HEADER = 8, 16  # bytes of a header with a size of 32 or of 64 bits


def boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each box; the last may be cut off.

    Raises ValueError if a size is smaller than the header of the box.
    """
    position = 0
    while position + HEADER <= len(content):
        size, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + HEADER]
        header = HEADER
        if size == 1:
            size, header = int.from_bytes(content[position + HEADER : position + WIDE_HEADER]), WIDE_HEADER
        size = size or len(content) - position
        if size < header:
            raise ValueError("its boxes have inconsistent sizes")
        yield kind, content[position + header : position + size]
        position += size


def first_box(content: bytes, kind: bytes) -> bytes | None:
    """The content of the first box of a kind, or None."""
    return next((inner for found, inner in boxes(content) if found == kind), None)
