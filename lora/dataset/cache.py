"""Where encoded tensors are kept: in memory for one job, or on disk for later ones too. Knows no image, no text."""

import contextlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Protocol

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.dataset.limits import DISK_TO_SPARE, GIBIBYTE, MEBIBYTE
from lora.heap import trim_heap

FOLDER_VARIABLE, CAP_VARIABLE = "FLUX_LORA_CACHE", "FLUX_LORA_CACHE_GIB"
DEFAULT_FOLDER, DEFAULT_CAP_GIB = "~/.cache/flux-lora", "20"
SHARE_OF_MEMORY = 1 / 2
CONTAINER = Path("/sys/fs/cgroup")
SWEPT_TO = 0.9  # of the cap, so that it is not swept at every file
BYTES_BETWEEN_GIVING_BACK = 128 * MEBIBYTE
SECONDS_UNFINISHED = 3600  # a file that nobody finished for so long was left by a job that was killed

Tensors = dict[str, Tensor]


class Cache(Protocol):
    """Tensors on the CPU by a key that says all that they depend on."""

    outlives_job: bool  # then what is put may depend on nothing else that the job has encoded

    def get(self, key: str) -> Tensors | None:
        """What is kept under a key, if anything is."""

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Keep tensors; those that come back are to be used, and may live on disk."""


def open_cache(*, on_disk: bool, needed: int) -> Cache:
    """The cache for a job that needs so many bytes; raises ValueError if they are more than it may take."""
    if not on_disk:
        room = int(_free_memory() * SHARE_OF_MEMORY)
        if needed > room:
            sizes = f"{_gib(needed)} of memory for its encoded images and captions: expected at most {_gib(room)}"
            raise ValueError(f"input_images needs {sizes}; set cache_latents_to_disk, or send fewer images")
        return MemoryCache()
    return DiskCache.opened(needed=needed)


class MemoryCache:
    """Keeps tensors for as long as it lives."""

    outlives_job = False

    def __init__(self) -> None:
        self._kept: dict[str, Tensors] = {}

    def get(self, key: str) -> Tensors | None:
        """What is kept under a key."""
        return self._kept.get(key)

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Keep tensors, and return the same."""
        return self._kept.setdefault(key, tensors)


class DiskCache:
    """A folder of safetensors files. Tensors are mapped from disk, not read into memory; what was not used for longest
    goes when there are too many. Processes may share it, and may be killed at any moment."""

    outlives_job = True

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder, self._most_bytes, self._begun = folder, most_bytes, time.time()
        self._since_given_back = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._bytes = sum(size for _, size, _ in self._files())

    @classmethod
    def opened(cls, *, needed: int) -> "DiskCache":
        """The cache that the environment names; raises ValueError if it cannot take so many bytes more."""
        folder = Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER)).expanduser() / "encoded"
        try:
            cache = cls(folder, most_bytes=_cap())
        except OSError as error:
            reason = f"{error.strerror}; {FOLDER_VARIABLE} names another folder"
            raise ValueError(f"cache_latents_to_disk needs the folder {str(folder)!r}: {reason}") from error
        cache.refuse(needed)
        return cache

    def refuse(self, needed: int) -> None:
        """Raises ValueError if so many bytes are more than the cap, or than the disk has room for."""
        if needed > self._most_bytes:
            limits = f"{_gib(needed)} on disk: expected at most {_gib(self._most_bytes)}, which {CAP_VARIABLE} sets"
            raise ValueError(f"cache_latents_to_disk needs {limits}")
        room = shutil.disk_usage(self._folder).free + self._bytes - DISK_TO_SPARE
        if needed > room:
            raise ValueError(f"cache_latents_to_disk needs {_gib(needed)} on disk: found room for {_gib(max(room, 0))}")

    def get(self, key: str) -> Tensors | None:
        """What is kept under a key; a file that is damaged counts as none."""
        path = self._path(key)
        try:
            os.utime(path)
            return load_file(path)
        except (OSError, SafetensorError):
            return None

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Write tensors, whole or not at all, and map them."""
        path = self._path(key)
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}.part")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # or a power failure could leave a whole file of zeros
        mapped, size = load_file(unfinished), unfinished.stat().st_size
        unfinished.replace(path)
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._sweep()
        self._since_given_back += size
        if self._since_given_back > BYTES_BETWEEN_GIVING_BACK:
            self._since_given_back = 0
            trim_heap()
        return mapped

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each was last used, its size, its path; another process may delete some meanwhile."""
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == ".safetensors":
                    files.append((status.st_mtime, status.st_size, path))
                elif time.time() - status.st_mtime > SECONDS_UNFINISHED:
                    path.unlink()
        return files

    def _sweep(self) -> None:
        """Delete what was not used for longest, but nothing that this job used."""
        by_age = sorted(self._files())
        self._bytes = sum(size for _, size, _ in by_age)
        for used, size, path in by_age:
            if self._bytes <= SWEPT_TO * self._most_bytes or used >= self._begun:
                return
            path.unlink(missing_ok=True)
            self._bytes -= size


def _free_memory() -> int:
    """Of the machine, or of the container where that has less. Pages of files count as free: they go when others are
    needed."""
    of_machine = psutil.virtual_memory().available
    try:
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        return min(limit - used + int(statistics["file"]), of_machine)
    except (OSError, ValueError, KeyError):  # no container, or one without a limit, which says "max"
        return of_machine


def _cap() -> int:
    value = os.environ.get(CAP_VARIABLE, DEFAULT_CAP_GIB)
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise ValueError(f"{CAP_VARIABLE} is {value!r}: expected a number of gibibytes such as {DEFAULT_CAP_GIB}")
    return int(float(value) * GIBIBYTE)


def _gib(count: int) -> str:
    return f"{count / GIBIBYTE:.1f} GiB"
