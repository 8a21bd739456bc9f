"""A folder of downloaded files, kept by how lately they were used. Safe for several processes and against a kill.

A file is there when its manifest is: the content is written and named first, and the manifest replaces the old one in
one step. What has no manifest is a leaving of a killed process, and goes. Nothing of a key changes without its lock,
which ends with its process; keys share some thousands of locks, so that strangers' references leave no file each.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from weights.cache.manifest import Manifest, read_manifest, write_manifest

MANIFEST, CONTENT, PART, LOCK = ".json", ".bin", ".part", ".lock"
OURS_ALONE = 0o700
KEY_LENGTH = 64
LOCK_LETTERS = 3  # of a key that choose its lock


@dataclass(frozen=True, slots=True)
class Room:
    """How much the cache may take."""

    most_bytes: int = 20 * 2**30
    spare_bytes: int = 2 * 2**30  # of the disk, that stay free
    fresh_seconds: float = 10 * 60  # for so long a source is not asked again whether a file changed or who may have it


@dataclass(frozen=True, slots=True)
class Store:
    """The files in a folder, each under a key of 64 hexadecimal letters."""

    folder: Path
    room: Room

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator["Entry"]:
        """The only one in all processes who handles this key; waits for the others. Raises OSError."""
        self.folder.mkdir(mode=OURS_ALONE, parents=True, exist_ok=True)
        with FileLock(self._lock(key)):
            entry = Entry(self, key)
            try:
                yield entry
            finally:
                entry.part.unlink(missing_ok=True)

    def make_room(self, size: int) -> None:
        """Let go of what was not used for longest, until `size` bytes more fit; never of what is locked.

        Raises OSError if the disk has no room even so.
        """
        for key in self._oldest_first():
            if self._fits(size):
                break
            self._let_go(key)
        free = shutil.disk_usage(self.folder).free
        if free - size < self.room.spare_bytes:
            needs = f"{size:,} bytes and {self.room.spare_bytes:,} to spare"
            raise OSError(f"does not fit on the disk: {free:,} bytes are free, expected room for {needs}")

    def let_old_misses_go(self) -> None:
        """Forget that sources had no file once, so that strangers' guesses leave nothing for ever."""
        for path in self.folder.glob(f"{'?' * KEY_LENGTH}{MANIFEST}"):
            if time.time() - _used(path) > self.room.fresh_seconds:
                with contextlib.suppress(Timeout), FileLock(self._lock(path.stem), timeout=0):
                    Entry(self, path.stem).forget_miss()

    def _fits(self, size: int) -> bool:
        held = sum(_size(path) for path in self.folder.iterdir() if path.suffix in {CONTENT, PART})
        free = shutil.disk_usage(self.folder).free
        return held + size <= self.room.most_bytes and free - size >= self.room.spare_bytes

    def _oldest_first(self) -> list[str]:
        """The keys of everything that takes room, leavings first; unknown files are nobody's business."""
        used: dict[str, float] = {}
        for path in self.folder.iterdir():
            key = path.name[:KEY_LENGTH]
            if path.suffix in {CONTENT, PART} and len(key) == KEY_LENGTH:
                used[key] = _used(self.folder / f"{key}{MANIFEST}")
        return sorted(used, key=lambda key: used[key])

    def _let_go(self, key: str) -> None:
        with contextlib.suppress(Timeout), FileLock(self._lock(key), timeout=0):
            Entry(self, key).forget()

    def _lock(self, key: str) -> Path:
        return self.folder / f"{key[:LOCK_LETTERS]}{LOCK}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a store, while it is locked."""

    store: Store
    key: str

    @property
    def part(self) -> Path:
        """Where a new file is written before it is kept; what stands there at the end is removed."""
        return self.store.folder / f"{self.key}{PART}"

    def held(self) -> Manifest | None:
        """What is there, if all of it is."""
        manifest = read_manifest(self._manifest)
        whole = manifest and 0 < manifest.size == _size(self._content(manifest.sha256))
        return manifest if whole else None

    def has_access(self, by: str, manifest: Manifest) -> bool:
        """Whether the source let somebody in lately; what it shows to everybody ('') is open to all."""
        return self._is_fresh(max(manifest.visitors.get(by, 0.0), manifest.visitors.get("", 0.0)))

    def grant_access(self, by: str, manifest: Manifest) -> None:
        """Remember that the source let somebody in just now."""
        now = {**manifest.visitors, by: time.time()}
        write_manifest(Manifest(manifest.sha256, manifest.size, manifest.etag, now), self._manifest)

    def is_known_missing(self, by: str) -> bool:
        """Whether the source told somebody lately that it has no such file."""
        missed = read_manifest(self._manifest)
        return missed is not None and missed.size == 0 and self._is_fresh(missed.visitors.get(by, 0.0))

    def miss(self, by: str) -> None:
        """Remember that the source has just told somebody that it has no such file; what is there goes, and so do old
        misses of every key."""
        self.store.let_old_misses_go()
        self.forget()
        write_manifest(Manifest("", 0, "", {by: time.time()}), self._manifest)

    def forget_miss(self) -> None:
        """Remove what is remembered, unless it is a file."""
        missed = read_manifest(self._manifest)
        if missed is not None and missed.size == 0:
            self.forget()

    def keep(self, sha256: str, size: int, etag: str, *, by: str) -> None:
        """Make the new file that stands in `part` the one of this key, and forget who was let in to the old one."""
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        content = self._content(sha256)
        self.part.replace(content)
        write_manifest(Manifest(sha256, size, etag, {by: time.time()}), self._manifest)
        for old in self.store.folder.glob(f"{self.key}-*{CONTENT}"):
            if old != content:
                old.unlink(missing_ok=True)

    def open(self, manifest: Manifest) -> BinaryIO:
        """The file, which stays readable when it is let go of; it now counts as used."""
        os.utime(self._manifest)
        return self._content(manifest.sha256).open("rb")

    def forget(self) -> None:
        """Remove all that is there."""
        self._manifest.unlink(missing_ok=True)
        for path in self.store.folder.glob(f"{self.key}*"):
            if path.suffix in {CONTENT, PART}:
                path.unlink(missing_ok=True)

    def _is_fresh(self, when: float) -> bool:
        return 0 <= time.time() - when < self.store.room.fresh_seconds

    @property
    def _manifest(self) -> Path:
        return self.store.folder / f"{self.key}{MANIFEST}"

    def _content(self, sha256: str) -> Path:
        return self.store.folder / f"{self.key}-{sha256[:16]}{CONTENT}"


def default_folder() -> Path:
    """Where this machine keeps what can be fetched again: XDG_CACHE_HOME, by default ~/.cache.

    A folder of its own: that of encoded images (flux-lora) sweeps away what it does not know.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flux-lora-downloads"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
