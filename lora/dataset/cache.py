"""Caches of encoded tensors: in memory for one job, or on disk for later jobs too. Knows no images and no text."""

import contextlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.dataset.limits import DISK_TO_SPARE, GIBIBYTE, MEBIBYTE
from lora.dataset.wording import sized
from lora.heap import trim_heap
from lora.host_memory import free_host_bytes

FOLDER_VARIABLE, CAP_VARIABLE = "FLUX_LORA_CACHE", "FLUX_LORA_CACHE_GIB"
DEFAULT_FOLDER, DEFAULT_CAP_GIB = "~/.cache/flux-lora", "20"
SHARE_OF_MEMORY = 1 / 2
SHARE_AFTER_EVICTION = 0.9  # of the cap, so that not every file triggers an eviction
BYTES_BETWEEN_TRIMS = 128 * MEBIBYTE
SECONDS_UNFINISHED = 3600  # a partial file older than this was left by a job that was killed

Tensors = dict[str, Tensor]


class Cache(Protocol):
    """Tensors on the CPU, by a key that covers everything they depend on."""

    outlives_job: bool  # if True, a stored tensor must not depend on what else the job encoded

    def get(self, key: str) -> Tensors | None:
        """The tensors stored under a key, or None."""

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Store tensors. The caller uses the returned ones, which may be mapped from disk."""


def open_cache(*, on_disk: bool, needed: int) -> Cache:
    """Open the cache for a job that needs `needed` bytes; raises ValueError if there is not enough space."""
    if not on_disk:
        free_bytes = int(free_host_bytes() * SHARE_OF_MEMORY)
        if needed > free_bytes:
            sizes = (
                f"{sized(needed)} of memory for its encoded images and captions: expected at most {sized(free_bytes)}"
            )
            raise ValueError(f"input_images needs {sizes}; set cache_latents_to_disk, or send fewer images")
        return MemoryCache()
    return DiskCache.from_environment(needed=needed)


class MemoryCache:
    """Stores tensors in memory."""

    outlives_job = False

    def __init__(self) -> None:
        self._tensors: dict[str, Tensors] = {}

    def get(self, key: str) -> Tensors | None:
        """The tensors stored under a key, or None."""
        return self._tensors.get(key)

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Store tensors, and return them."""
        return self._tensors.setdefault(key, tensors)


class DiskCache:
    """A folder of safetensors files. Tensors are mapped from disk, not read into memory; beyond the cap, the least
    recently used files are deleted. Processes may share the folder, and may be killed at any moment."""

    outlives_job = True

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder, self._most_bytes, self._opened_at = folder, most_bytes, time.time()
        self._bytes_since_trim = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._bytes = sum(size for _, size, _ in self._files())

    @classmethod
    def from_environment(cls, *, needed: int) -> "DiskCache":
        """Open the cache in the folder that the environment names; raises ValueError if `needed` bytes do not fit."""
        folder = Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER)).expanduser() / "encoded"
        try:
            cache = cls(folder, most_bytes=_cap())
        except OSError as error:
            reason = f"{error.strerror}; set {FOLDER_VARIABLE} to another folder"
            raise ValueError(f"cache_latents_to_disk needs the folder {str(folder)!r}: {reason}") from error
        cache.require_space(needed)
        return cache

    def require_space(self, needed: int) -> None:
        """Raise ValueError if `needed` bytes exceed the cap or the free disk space."""
        if needed > self._most_bytes:
            limits = f"{sized(needed)} on disk: expected at most {sized(self._most_bytes)}, which {CAP_VARIABLE} sets"
            raise ValueError(f"cache_latents_to_disk needs {limits}")
        free_bytes = shutil.disk_usage(self._folder).free + self._bytes - DISK_TO_SPARE
        if needed > free_bytes:
            kept = f"beside the {sized(DISK_TO_SPARE)} that are kept free"
            raise ValueError(
                f"cache_latents_to_disk needs {sized(needed)} on disk: found {sized(max(free_bytes, 0))} {kept}; free"
                f" some space, or set {FOLDER_VARIABLE} to another folder"
            )

    def get(self, key: str) -> Tensors | None:
        """The tensors stored under a key, or None if the file is missing or damaged."""
        path = self._path(key)
        try:
            os.utime(path)
            return load_file(path)
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Write tensors atomically, and return them mapped from disk, on the CPU with the same shapes and dtypes.

        Raises SafetensorError or OSError if the disk is full or broken.
        """
        path = self._path(key)
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}.part")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # without this, a power failure can leave a complete file of zeros
        mapped, size = load_file(unfinished), unfinished.stat().st_size
        unfinished.replace(path)
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._evict()
        self._bytes_since_trim += size
        if self._bytes_since_trim > BYTES_BETWEEN_TRIMS:
            self._bytes_since_trim = 0
            trim_heap()
        return mapped

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _files(self) -> list[tuple[float, int, Path]]:
        """The time of last use, size in bytes, and path of each file. Another process may delete files concurrently."""
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == ".safetensors":
                    files.append((status.st_mtime, status.st_size, path))
                elif time.time() - status.st_mtime > SECONDS_UNFINISHED:
                    path.unlink()
        return files

    def _evict(self) -> None:
        """Delete the least recently used files, but none that this job used."""
        by_age = sorted(self._files())
        self._bytes = sum(size for _, size, _ in by_age)
        for used, size, path in by_age:
            if self._bytes <= SHARE_AFTER_EVICTION * self._most_bytes or used >= self._opened_at:
                return
            path.unlink(missing_ok=True)
            self._bytes -= size


def _cap() -> int:
    value = os.environ.get(CAP_VARIABLE, DEFAULT_CAP_GIB)
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise ValueError(f"{CAP_VARIABLE} is {value!r}: expected a number of gibibytes such as {DEFAULT_CAP_GIB}")
    return int(float(value) * GIBIBYTE)
