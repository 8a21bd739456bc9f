"""A folder for the files of one job. Its result must outlive the job's return, so the next job clears it away."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """A new folder for a job of this name, which is deleted if the job fails or is cancelled.

    Of a job that succeeds it stays; what earlier jobs of this process left, also where their own clearing away was
    interrupted, is deleted first.
    """
    prefix = f"flux-lora-{name}-{os.getpid()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder, is_done = Path(tempfile.mkdtemp(prefix=prefix)), False
    try:
        yield folder
        is_done = True
    finally:
        if not is_done:
            shutil.rmtree(folder, ignore_errors=True)
