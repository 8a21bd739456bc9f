"""The folder into which a base is downloaded: its lock, the room on its disk, and files that are not complete yet."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import BinaryIO

from filelock import FileLock, Timeout

from weights.component_files import UNFINISHED
from weights.layouts import BASE, Layout
from weights.network.network import Network
from weights.printed import size_text

SPARE_BYTES = 2 * 2**30  # of the disk that must stay free
LOCK = ".lock"
VALIDATOR = ".version"  # suffix of the file with the version of an incomplete one
SECONDS_BETWEEN_TRIES = 0.2
CHUNK_BYTES = 8 * 2**20
LARGE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a base or a captioner is downloaded to, and how."""

    folder: Path
    network: Network
    token: str  # for Hugging Face
    log_line: Callable[[str], None]
    layout: Layout = BASE


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file of which perhaps only a part has been downloaded; the part has another name."""

    final: Path

    @property
    def path(self) -> Path:
        """Where the part is."""
        return self.final.with_name(self.final.name + UNFINISHED)

    @property
    def size(self) -> int:
        """The bytes of the part; 0 if there is none that can be continued."""
        return self.path.stat().st_size if self.validator and self.path.is_file() else 0

    @property
    def validator(self) -> str:
        """What the server called the version of the part; empty if it is not known."""
        try:
            return self._validator.read_text(encoding="utf-8")
        except (FileNotFoundError, ValueError):
            return ""

    def begin(self, validator: str) -> None:
        """Note the version of a part before its first byte."""
        self._validator.write_text(validator, encoding="utf-8")

    def open(self) -> BinaryIO:
        """Open the part to append to it; a part that cannot be continued is emptied."""
        self.final.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("ab" if self.size else "wb")

    def digest(self, stop: Event) -> "hashlib._Hash":
        """Return the sha256 of the part, which can be updated with what follows; of anything once `stop` is set."""
        digest, left = hashlib.sha256(), self.size
        if left:
            with self.path.open("rb") as file:
                while left and not stop.is_set() and (chunk := file.read(min(left, CHUNK_BYTES))):
                    digest.update(chunk)
                    left -= len(chunk)
        return digest

    def finish(self) -> None:
        """Give the complete file its name; a large one must be on the disk then; a small one is read again."""
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size >= LARGE_BYTES:
                os.fsync(file.fileno())
        self.path.replace(self.final)
        self._validator.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the part."""
        self._validator.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    @property
    def _validator(self) -> Path:
        return self.path.with_name(self.path.name + VALIDATOR)


@contextmanager
def locked(folder: Path, log_line: Callable[[str], None]) -> Iterator[None]:
    """Lock a folder, which is created, against all other processes; the system releases the lock when one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log_line(f"waiting for another process that downloads into {folder}")
        while not lock.is_locked:
            time.sleep(SECONDS_BETWEEN_TRIES)
            with suppress(Timeout):
                lock.acquire(timeout=0)
    try:
        yield
    finally:
        lock.release()


def check_room(folder: Path, needed: int) -> None:
    """Raise OSError, whose message completes a sentence, if `needed` more bytes do not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        expected = f"expected {size_text(needed)} and {size_text(SPARE_BYTES)} to spare"
        where = f"on the disk of {folder}: {size_text(free)} are free, {expected}"
        raise OSError(f"does not fit {where}; make room, for example by deleting other bases in {folder.parent}")
