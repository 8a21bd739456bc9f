"""What a figure was measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine(*libraries: str) -> dict[str, object]:
    """The machine, and the versions of libraries that matter."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version(name) for name in libraries}
    hardware = {"cores": os.cpu_count(), "processor": _processor(), "gpu": gpu}
    return {**hardware, "python": platform.python_version(), **versions}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
