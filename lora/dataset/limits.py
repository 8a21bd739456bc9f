"""Limits on what is read from a user's archive, and the budget that enforces them. Knows no archive format."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lora.dataset.refusal import ContentError

KIBIBYTE = 2**10
MEBIBYTE = 2**20
GIBIBYTE = 2**30
BLOCK = MEBIBYTE  # bytes copied at a time: small enough that a job can be cancelled between two blocks
HEAD = 64  # bytes at the start of a file that say whether it may be an image
MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 16 * MEBIBYTE  # of a zip, which is read at once: 800 per member
MAX_NAME_LENGTH = 4_096  # no operating system supports longer paths
MAX_ARCHIVE_BYTES = 4 * GIBIBYTE
MAX_BYTES = 8 * GIBIBYTE
MAX_BYTES_OF_A_MEMBER = 256 * MEBIBYTE
# Of files that are left out of a tar.gz, which have to be decompressed to find what follows them: half a minute.
MAX_BYTES_SKIPPED = 16 * GIBIBYTE
# Photographs hardly compress: a file beyond such a size and ratio is a decompression bomb.
SUSPECT_BYTES, SUSPECT_RATIO = 50 * MEBIBYTE, 200
SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO = GIBIBYTE, 100
MAX_IMAGES = 5_000
DISK_TO_SPARE = 2 * GIBIBYTE


@dataclass(slots=True)
class Budget:
    """How many bytes may be unpacked. It counts the bytes actually unpacked, not those that a directory declares."""

    limit: int  # bytes
    of_disk: bool  # whether free disk space sets the limit
    spent: int = 0

    @classmethod
    def of_folder(cls, folder: Path) -> "Budget":
        """The budget for a folder: the free disk space less 2 GiB, but at most the limits of this module."""
        free_bytes = max(shutil.disk_usage(folder).free - DISK_TO_SPARE, 0)
        return cls(limit=min(MAX_BYTES, free_bytes), of_disk=free_bytes < MAX_BYTES)

    def spend(self, count: int) -> None:
        """Count unpacked bytes; raises ContentError if the total exceeds the limit."""
        self.spent += count
        if self.spent > self.limit:
            kept = f"the disk has no more beside the {DISK_TO_SPARE // GIBIBYTE} GiB that are kept free"
            reason = f", because {kept}" if self.of_disk else ""
            found = f"{self.spent:,} bytes or more"
            raise ContentError(f"unpacks to {found}: expected at most {self.limit:,}{reason}")

    def check(self, total: int) -> None:
        """Raise ContentError if `total` bytes exceed the limit. Callers use it before they write anything."""
        Budget(self.limit, self.of_disk).spend(total)
