"""The folder where all trainings on this machine keep their checkpoints: one that outlives a container, if it can."""

import os
from pathlib import Path

VARIABLE, IN_HOME = "FLUX_LORA_CHECKPOINTS", "~/.cache/flux-lora/checkpoints"
PROJECT = Path(__file__).resolve().parents[3]
ON_RUNPOD = "RUNPOD_POD_ID"  # set in a pod, and in a worker of RunPod
# Where RunPod mounts the volume of a pod, and of a serverless worker (docs.runpod.io/pods/storage/types).
RUNPOD_VOLUMES = (Path("/workspace"), Path("/runpod-volume"))
ON_VOLUME = "flux-lora-checkpoints"
CONTAINER_MARKERS = (Path("/.dockerenv"), Path("/run/.containerenv"))  # files that Docker and Podman put there
MOUNTS = Path("/proc/self/mountinfo")
MOUNT_POINT = 4  # its column there, see proc_pid_mountinfo(5)


def checkpoints_folder() -> Path:
    """The folder that FLUX_LORA_CHECKPOINTS names. Without it, one that outlives the container, see `_lasting_folder`;
    without such a one, a folder in the user's home."""
    given = os.environ.get(VARIABLE, "").strip()
    return (None if given else _lasting_folder()) or Path(given or IN_HOME).expanduser()


def is_lasting() -> bool:
    """Whether the checkpoints outlive a container, as far as this process can know."""
    return bool(os.environ.get(VARIABLE, "").strip()) or _lasting_folder() is not None


def _lasting_folder() -> Path | None:
    """In a container, `checkpoints` in the project if that lies in a mounted folder or volume, as with `cog train`,
    which removes the container at its end; on RunPod else a folder of the volume of the pod."""
    on_runpod = bool(os.environ.get(ON_RUNPOD))
    if not on_runpod and not any(marker.exists() for marker in CONTAINER_MARKERS):
        return None
    mounted = _mount_points() - {Path("/")}
    if mounted & {PROJECT, *PROJECT.parents} and os.access(PROJECT, os.W_OK):
        return PROJECT / "checkpoints"
    volumes = (volume for volume in RUNPOD_VOLUMES if on_runpod and volume in mounted and os.access(volume, os.W_OK))
    return next((volume / ON_VOLUME for volume in volumes), None)


def _mount_points() -> set[Path]:
    if not MOUNTS.exists():  # not Linux
        return set()
    lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {Path(line.split(" ")[MOUNT_POINT].replace("\\040", " ")) for line in lines}
