"""Take what torch.compile has made along to the next run, in files small enough to be brought back from a machine that
is lent for minutes."""

import zlib
from itertools import groupby
from pathlib import Path

import torch

PART_BYTES = 16 * 2**20  # the largest file that comes back
MOST_PARTS = 6  # of 8 files, beside the results and a log
ENDING = ".compiled-"


def save_artifacts(beside: Path) -> list[Path]:
    """Write all that has been compiled into files beside another one, and return them; none if nothing was compiled.
    Raises ValueError if it is more than may come back."""
    saved = torch.compiler.save_cache_artifacts()
    return write_parts(zlib.compress(saved[0]), beside, part_bytes=PART_BYTES) if saved else []


def load_artifacts(folder: Path) -> int:
    """Load what `save_artifacts` wrote, if a folder has any, before anything is compiled; returns the number of files.
    Raises zlib.error if a part is missing."""
    files = sorted(folder.glob(f"*{ENDING}*")) if folder.is_dir() else []
    for _, parts in groupby(files, key=lambda file: file.name.rpartition(ENDING)[0]):
        content = b"".join(part.read_bytes() for part in parts)
        torch.compiler.load_cache_artifacts(zlib.decompress(content))
    return len(files)


def write_parts(content: bytes, beside: Path, *, part_bytes: int) -> list[Path]:
    """Write bytes into numbered files of at most `part_bytes`."""
    starts = range(0, len(content), part_bytes)
    if len(starts) > MOST_PARTS:
        raise ValueError(f"compiled code takes {len(content):,} bytes: expected at most {MOST_PARTS * part_bytes:,}")
    files = [beside.with_name(f"{beside.stem}{ENDING}{number}") for number in range(len(starts))]
    for file, start in zip(files, starts, strict=True):
        file.write_bytes(content[start : start + part_bytes])
    return files
