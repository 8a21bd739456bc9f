"""Describes the machine that a benchmark runs on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def machine(*libraries: str) -> dict[str, object]:
    """The hardware, the versions of the given libraries, and the commit of our own code."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version(name) for name in libraries}
    hardware = {"cores": os.cpu_count(), "processor": _processor(), "gpu": gpu}
    of_gpu = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if gpu else {}
    return {**hardware, "python": platform.python_version(), **of_gpu, **versions, "commit": _commit()}


def _commit() -> str | None:
    """The commit, with `-dirty` if files have changed since; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
