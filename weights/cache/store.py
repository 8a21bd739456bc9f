"""A folder of downloaded files that evicts the least recently used. Safe for several processes, and if one is killed.

A file is in the cache if its manifest is: the content is written and renamed first, and then the manifest replaces the
old one atomically. Content without a manifest was left by a killed process and is evicted first.

Nothing of a key changes without its lock, which the system releases when the process ends. Keys share at most 4096 lock
files, so that requests for arbitrary references do not leave one file each.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from weights.cache.manifest import Manifest, read_manifest, write_manifest

MANIFEST, CONTENT, PARTIAL, LOCK = ".json", ".bin", ".part", ".lock"
OWNER_ONLY = 0o700
KEY_LENGTH = 64
LOCK_LETTERS = 3  # the first digits of a key select its lock


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Limits of the cache."""

    most_bytes: int = 20 * 2**30
    spare_bytes: int = 2 * 2**30  # of the disk that must stay free
    fresh_seconds: float = 10 * 60  # for this long, no request to the source checks for changes or access


@dataclass(frozen=True, slots=True)
class Store:
    """The files in a folder, each under a key of 64 hexadecimal digits."""

    folder: Path
    limits: CacheLimits

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator["Entry"]:
        """Lock a key against all other processes, waiting for the lock if needed. Raises OSError."""
        self.folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        with FileLock(self._lock(key)):
            entry = Entry(self, key)
            try:
                yield entry
            finally:
                entry.partial.unlink(missing_ok=True)

    def make_room(self, size: int) -> None:
        """Evict the least recently used files until `size` more bytes fit. Locked files are not evicted.

        Raises OSError if the disk has too little free space even then.
        """
        for key in self._oldest_first():
            if self._fits(size):
                break
            self._evict(key)
        free = shutil.disk_usage(self.folder).free
        if free - size < self.limits.spare_bytes:
            required = f"{size:,} bytes and {self.limits.spare_bytes:,} to spare"
            raise OSError(f"does not fit on the disk: {free:,} bytes are free, expected {required}")

    def remove_old_missing_records(self) -> None:
        """Remove expired records of missing files, so that requests for guessed names do not accumulate."""
        for path in self.folder.glob(f"{'?' * KEY_LENGTH}{MANIFEST}"):
            if time.time() - _last_used(path) > self.limits.fresh_seconds:
                with contextlib.suppress(Timeout), FileLock(self._lock(path.stem), timeout=0):
                    Entry(self, path.stem).remove_missing_record()

    def _fits(self, size: int) -> bool:
        cached_bytes = sum(_size(path) for path in self.folder.iterdir() if path.suffix in {CONTENT, PARTIAL})
        free = shutil.disk_usage(self.folder).free
        return cached_bytes + size <= self.limits.most_bytes and free - size >= self.limits.spare_bytes

    def _oldest_first(self) -> list[str]:
        """Return the keys of all contents, those without a manifest first. Unknown files are ignored."""
        last_used: dict[str, float] = {}
        for path in self.folder.iterdir():
            key = path.name[:KEY_LENGTH]
            if path.suffix in {CONTENT, PARTIAL} and len(key) == KEY_LENGTH:
                last_used[key] = _last_used(self.folder / f"{key}{MANIFEST}")
        return sorted(last_used, key=lambda key: last_used[key])

    def _evict(self, key: str) -> None:
        with contextlib.suppress(Timeout), FileLock(self._lock(key), timeout=0):
            Entry(self, key).remove()

    def _lock(self, key: str) -> Path:
        return self.folder / f"{key[:LOCK_LETTERS]}{LOCK}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a store while it is locked."""

    store: Store
    key: str

    @property
    def partial(self) -> Path:
        """Where a new file is written before it is committed. The file is removed when the lock is released."""
        return self.store.folder / f"{self.key}{PARTIAL}"

    def cached_file(self) -> Manifest | None:
        """Return the manifest of the file of this key; None if there is none or it is incomplete."""
        manifest = read_manifest(self._manifest)
        is_complete = manifest and 0 < manifest.size == _size(self._content(manifest.sha256))
        return manifest if is_complete else None

    def has_access(self, credential: str, manifest: Manifest) -> bool:
        """Whether the source recently accepted a credential, or served the file without any."""
        return self._is_fresh(max(manifest.visitors.get(credential, 0.0), manifest.visitors.get("", 0.0)))

    def grant_access(self, credential: str, manifest: Manifest) -> None:
        """Record that the source has just accepted a credential."""
        visitors = {**manifest.visitors, credential: time.time()}
        write_manifest(replace(manifest, visitors=visitors), self._manifest)

    def is_known_missing(self, credential: str) -> bool:
        """Whether the source recently responded that it has no such file."""
        manifest = read_manifest(self._manifest)
        return manifest is not None and manifest.size == 0 and self._is_fresh(manifest.visitors.get(credential, 0.0))

    def record_missing(self, credential: str) -> None:
        """Record that the source has just responded that it has no such file.

        Removes the cached file, and the expired records of every key.
        """
        self.store.remove_old_missing_records()
        self.remove()
        write_manifest(Manifest("", 0, "", {credential: time.time()}), self._manifest)

    def remove_missing_record(self) -> None:
        """Remove the manifest if it records a missing file."""
        manifest = read_manifest(self._manifest)
        if manifest is not None and manifest.size == 0:
            self.remove()

    def commit(self, sha256: str, size: int, etag: str, *, credential: str, settings: str = "", note: str = "") -> None:
        """Make the file at `partial` the one of this key, accessible with this credential only."""
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        content = self._content(sha256)
        self.partial.replace(content)
        write_manifest(Manifest(sha256, size, etag, {credential: time.time()}, settings, note), self._manifest)
        for old in self.store.folder.glob(f"{self.key}-*{CONTENT}"):
            if old != content:
                old.unlink(missing_ok=True)

    def open(self, manifest: Manifest) -> BinaryIO:
        """Open the file and mark it as used. The open file stays readable if it is evicted."""
        os.utime(self._manifest)
        return self._content(manifest.sha256).open("rb")

    def remove(self) -> None:
        """Remove everything of this key."""
        self._manifest.unlink(missing_ok=True)
        for path in self.store.folder.glob(f"{self.key}*"):
            if path.suffix in {CONTENT, PARTIAL}:
                path.unlink(missing_ok=True)

    def _is_fresh(self, when: float) -> bool:
        return 0 <= time.time() - when < self.store.limits.fresh_seconds

    @property
    def _manifest(self) -> Path:
        return self.store.folder / f"{self.key}{MANIFEST}"

    def _content(self, sha256: str) -> Path:
        return self.store.folder / f"{self.key}-{sha256[:16]}{CONTENT}"


def default_folder() -> Path:
    """Return this machine's download cache: in XDG_CACHE_HOME, by default ~/.cache.

    Not the folder flux-lora, which holds encoded images and removes files that it does not know.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flux-lora-downloads"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
