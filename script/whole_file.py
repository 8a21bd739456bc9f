"""Put a finished file at the path that a person chose: whole, or not at all, so that no older file there is lost."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def refuse_unwritable(path: Path) -> None:
    """Raise OSError unless a file can be written beside this path and renamed to it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    os.close(descriptor)
    Path(name).unlink()


def move_whole(source: Path, path: Path) -> None:
    """Move a file to a path, where a file may be, and sync it to disk.

    On another file system, the file is copied beside the path and renamed. Raises OSError if that fails, for example
    because the disk is full; the source, and the file that was at the path, are unchanged then.
    """
    _sync(source)
    try:
        source.replace(path)
    except OSError:  # the path is on another file system, or cannot be written at all
        _copy_and_rename(source, path)
        source.unlink(missing_ok=True)
    with suppress(OSError):  # some file systems sync no folders; the file is there
        _sync(path.parent)


def _copy_and_rename(source: Path, path: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    unfinished = Path(name)
    try:
        with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
        unfinished.chmod(0o666 & ~_umask())  # as for any other new file; mkstemp gives it to its owner alone
        unfinished.replace(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def _sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk. (That of checkpoints imports torch, which takes seconds.)"""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The permissions that new files of this process do not get. The system tells it only to who sets it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
