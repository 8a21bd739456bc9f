"""Walks the markers of a JPEG file (ITU-T T.81, annex B): to its end, and not into what is stored behind it.

Phones append a video (motion photos), a depth map or a gain map, which may hold any bytes.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"\xff\xd8\xff"
# In compressed data, 0xFF is followed by 0 or by a restart marker; fill bytes may precede a marker.
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
END, START_OF_SCAN = 0xD9, 0xDA
FIRST_WITH_LENGTH = 0xC0  # of a segment; decoders skip or refuse the markers below, without reading a length
START = 0xD8
MAX_SEGMENTS = 100_000  # a photograph has some dozens, and some hundred scans


def count_scans(path: Path) -> int:
    """The number of scans of a JPEG file. Raises ValueError if it has an absurd number of segments."""
    return sum(marker == START_OF_SCAN for marker in _markers(path))


def _markers(path: Path) -> Iterator[int]:
    """Yield the markers of a JPEG file up to its end."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = number = 0
        while found := MARKER.search(content, position):
            number += 1
            if number > MAX_SEGMENTS:
                raise ValueError(f"it has more than {MAX_SEGMENTS:,} segments: expected at most that")
            marker, position = content[found.end() - 1], found.end()
            if marker == END:
                return
            yield marker
            if marker >= FIRST_WITH_LENGTH and marker != START:
                position += int.from_bytes(content[position : position + 2])
