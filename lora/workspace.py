"""Temporary folders for the files of one job. The result outlives the job, so the next job deletes the folder."""

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from lora.checks import check_no_nul, short_repr

FINISHED = ".finished"  # marks a folder whose job has ended well: somebody may still want the result
# After which a result counts as abandoned; and after which a folder is locked, so that an unlocked one is abandoned.
SECONDS_ABANDONED, SECONDS_TO_LOCK = 8 * 24 * 3600, 2
LONGEST_SHOWN = 300  # characters of a path in an error
SCHEME = re.compile(r"(data:)|https?:/", re.IGNORECASE)


class Readable(Protocol):
    """The folders whose files a request may name."""

    @property
    def expected(self) -> str:
        """What can be given, for errors."""

    def contain(self, path: Path) -> bool:
        """Whether a path leads into one of the folders."""


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """Create a folder for a job of this name, and delete it if the job fails or is cancelled.

    After a successful job the folder stays. Folders that earlier jobs of this process left, even after an interrupted
    cleanup, are deleted first, and so are those of killed processes, and results that are eight days old.
    """
    prefix = f"flux-lora-{name}-{os.getpid()}-"
    _delete_old_folders(prefix, name)
    folder, is_successful = Path(tempfile.mkdtemp(prefix=prefix)), False
    descriptor = _lock(folder)
    try:
        yield folder
        is_successful = True
    finally:
        if is_successful:
            with suppress(OSError):  # the disk is full: the folder is only deleted sooner
                (folder / FINISHED).touch()
        else:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def own_temporary_folder(name: str) -> Path:
    """Create a folder for this process alone, and make it the default folder for temporary files in this process.

    Cog writes the files of a request there before it calls `run`, and leaves them if the request is cancelled in
    between. The folder is locked as long as the process lives, and deleted when it exits. Folders that killed processes
    left are deleted first.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"flux-lora-{name}-*"):
        if not _is_locked(folder):
            shutil.rmtree(folder, ignore_errors=True)
    own_folder = Path(tempfile.mkdtemp(prefix=f"flux-lora-{name}-{os.getpid()}-"))
    _lock(own_folder)
    atexit.register(shutil.rmtree, own_folder, ignore_errors=True)
    tempfile.tempdir = str(own_folder)
    return own_folder


def clear_folder(folder: Path, *, keep: Iterable[Path | None]) -> None:
    """Delete everything in the folder of a process except the files to keep; recreates a folder that was removed."""
    kept = {path.absolute() for path in keep if path}
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        _lock(folder)
    for path in folder.absolute().iterdir():
        if path not in kept:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def named_file(name: str, path: object, readable: Readable) -> Path | None:
    """The file that a request gives as the input `name`; None if the input is missing or blank.

    Cog stores uploads in the temporary folder of the process, and passes any other value through unchanged. Raises
    ValueError for a path that is not readable, whether or not a file is there, and for a data URI or a URL, which in
    plain Python nobody has received; the error does not repeat what is in them.
    """
    if path is None or (isinstance(path, str) and not path.strip()):
        return None
    if not isinstance(path, str | Path):
        raise ValueError(f"{name} is {short_repr(path)}: expected {readable.expected}")
    check_no_nul(name, str(path))
    if scheme := SCHEME.match(str(path)):
        kind = f"a data URI of {len(str(path)):,} characters" if scheme[1] else "a URL"
        raise ValueError(f"{name} is {kind}, which only a server receives: expected the path of a file")
    if not readable.contain(Path(path)):
        shown = str(path)[:LONGEST_SHOWN]
        raise ValueError(
            f"{name} is the path {shown!r}, outside of the folders that requests may read: expected {readable.expected}"
        )
    return Path(path)


def _delete_old_folders(prefix: str, name: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"flux-lora-{name}-*"):
        with suppress(OSError):
            is_result = (folder / FINISHED).exists()
            age = time.time() - folder.stat().st_mtime
            is_abandoned = age > (SECONDS_ABANDONED if is_result else SECONDS_TO_LOCK) and not _is_locked(folder)
            if is_abandoned or folder.name.startswith(prefix):
                shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Lock a folder, and return the descriptor. The lock ends with the descriptor, or with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # the file system has no locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _is_locked(folder: Path) -> bool:
    """Whether a process holds the lock; True if that cannot be determined."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
