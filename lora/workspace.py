"""A folder for the files of one job. They must outlive the job's return, so the next job clears them away."""

import os
import shutil
import tempfile
from pathlib import Path


def fresh_workspace(name: str) -> Path:
    """An empty folder that belongs to this process and to jobs of this name; what an earlier one left is deleted."""
    folder = Path(tempfile.gettempdir()) / f"flux-lora-{name}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder
