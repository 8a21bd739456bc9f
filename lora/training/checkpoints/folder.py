"""The folder where all trainings on this machine keep their checkpoints: one that outlives a container, if it can."""

import os
from pathlib import Path

VARIABLE, IN_HOME = "FLUX_LORA_CHECKPOINTS", "~/.cache/flux-lora/checkpoints"
PROJECT = Path(__file__).resolve().parents[3]
CONTAINER_MARKERS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # files that Docker and Podman put there
MOUNTS = Path("/proc/self/mountinfo")
MOUNT_POINT = 4  # its column there, see proc_pid_mountinfo(5)


def checkpoints_folder() -> Path:
    """The folder that FLUX_LORA_CHECKPOINTS names. Without it, a folder in the user's home; but `checkpoints` in the
    project if that is mounted into a container, as by `cog train`, which removes the container at its end."""
    given = os.environ.get(VARIABLE, "").strip()
    if not given and is_project_mounted():
        return PROJECT / "checkpoints"
    return Path(given or IN_HOME).expanduser()


def is_project_mounted() -> bool:
    """Whether this process runs in a container into which the project is mounted, and may write to it."""
    in_container = any(marker.exists() for marker in CONTAINER_MARKERS)
    return in_container and PROJECT in _mount_points() and os.access(PROJECT, os.W_OK)


def is_lasting() -> bool:
    """Whether the checkpoints outlive a container, as far as this process can know."""
    return bool(os.environ.get(VARIABLE, "").strip()) or is_project_mounted()


def _mount_points() -> set[Path]:
    if not MOUNTS.exists():  # not Linux
        return set()
    lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {Path(line.split(" ")[MOUNT_POINT].replace("\\040", " ")) for line in lines}
