"""A folder for the files of one job. They must outlive the job's return, so the next job clears them away."""

import os
import shutil
import tempfile
from pathlib import Path


def fresh_workspace(name: str) -> Path:
    """A new folder for a job of this name; those that earlier jobs of this process left are deleted."""
    prefix = f"flux-lora-{name}-{os.getpid()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix))
