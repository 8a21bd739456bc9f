"""How much of a person's archive is read, and how what is read is counted. Knows no format of any."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lora.dataset.refusal import ContentError

MEBIBYTE = 2**20
GIBIBYTE = 2**30
BLOCK = MEBIBYTE  # bytes that are moved at a time: little enough to be cancelled between two of them
MOST_MEMBERS = 20_000
MOST_DIRECTORY_BYTES = 16 * MEBIBYTE  # of a zip, which is read whole: 800 for each member
MOST_LETTERS_OF_A_NAME = 4_096  # no system takes a longer path
MOST_ARCHIVE_BYTES = 4 * GIBIBYTE
MOST_BYTES = 8 * GIBIBYTE
MOST_BYTES_OF_A_MEMBER = 256 * MEBIBYTE
# Photographs hardly shrink: this much from this little is a bomb.
SUSPECT_BYTES, SUSPECT_RATIO = 50 * MEBIBYTE, 200
SUSPECT_TOTAL, SUSPECT_TOTAL_RATIO = GIBIBYTE, 100
MOST_IMAGES = 5_000
DISK_TO_SPARE = 2 * GIBIBYTE


@dataclass(slots=True)
class Budget:
    """What may be unpacked. It is spent by the bytes that really come out, whatever a directory says."""

    limit: int  # bytes
    of_disk: bool  # whether it is the disk that sets it
    spent: int = 0

    @classmethod
    def of_folder(cls, folder: Path) -> "Budget":
        """What a folder has room for, within the limits of this module; two gibibytes of the disk stay free."""
        room = max(shutil.disk_usage(folder).free - DISK_TO_SPARE, 0)
        return cls(limit=min(MOST_BYTES, room), of_disk=room < MOST_BYTES)

    def spend(self, count: int) -> None:
        """Count bytes; raises ContentError if they are more than there may be."""
        self.spent += count
        if self.spent > self.limit:
            reason = ", as the disk has no more room" if self.of_disk else ""
            found = f"{self.spent:,} bytes or more"
            raise ContentError(f"unpacks to {found}: expected at most {self.limit:,}{reason}")

    def refuse(self, total: int) -> None:
        """Raises ContentError if so many bytes are more than there may be, before the first of them is written."""
        Budget(self.limit, self.of_disk).spend(total)
