"""A folder for the files of one job. Its result must outlive the job's return, so the next job clears it away."""

import atexit
import fcntl
import os
import reprlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECONDS_ABANDONED = 8 * 24 * 3600  # no job lasts as long: time_limit is a week at most
A_FILE = "an https:// URL, a data URI or a file"


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """A new folder for a job of this name, which is deleted if the job fails or is cancelled.

    Of a job that succeeds it stays; what earlier jobs of this process left, also where their own clearing away was
    interrupted, is deleted first, and so is what any process left eight days ago.
    """
    prefix = f"flux-lora-{name}-{os.getpid()}-"
    _sweep(prefix, name)
    folder, is_done = Path(tempfile.mkdtemp(prefix=prefix)), False
    try:
        yield folder
        is_done = True
    finally:
        if not is_done:
            shutil.rmtree(folder, ignore_errors=True)


def own_temporary_folder(name: str) -> Path:
    """A folder of this process alone, which everything here that asks for a temporary file is given from now on.

    Cog writes the files of a request there before it calls, and leaves them where a cancel comes in between. It is held
    as long as the process lives, and goes with it; those that killed processes left go first.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"flux-lora-{name}-*"):
        if not _is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=f"flux-lora-{name}-{os.getpid()}-"))
    _hold(own)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    tempfile.tempdir = str(own)
    return own


def clear(folder: Path, *, keep: Iterable[Path | None]) -> None:
    """Remove what lies in a process's own folder, but for these files; made anew if somebody took it away."""
    kept = {path.absolute() for path in keep if path}
    if not folder.is_dir():
        folder.mkdir(mode=0o700)
        _hold(folder)
    for path in folder.absolute().iterdir():
        if path not in kept:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sent(folder: Path, name: str, path: object) -> Path | None:
    """The file that a client sent as the input `name`; None where it gave none, or blank text.

    What it sent Cog put into a temporary folder, this one; anything else in a request it hands on as it is. Raises
    ValueError with one sentence for that.
    """
    if path is None or (isinstance(path, str) and not path.strip()):
        return None
    if not isinstance(path, str | Path):
        raise ValueError(f"{name} is {reprlib.repr(path)}: expected {A_FILE}")
    if not Path(path).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is {str(path)!r}, a path: expected {A_FILE}")
    return Path(path)


def _sweep(prefix: str, name: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"flux-lora-{name}-*"):
        with suppress(OSError):
            is_abandoned = time.time() - folder.stat().st_mtime > SECONDS_ABANDONED
            if is_abandoned or folder.name.startswith(prefix):
                shutil.rmtree(folder, ignore_errors=True)


def _hold(folder: Path) -> None:
    """Until the process ends, however it does: the system lets go then of what is never closed here."""
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)


def _is_held(folder: Path) -> bool:
    """Also where that cannot be asked."""
    try:
        asked = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(asked)
