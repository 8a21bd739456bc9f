"""The free memory of this machine, or of the container that it runs in."""

from pathlib import Path

import psutil

CONTAINER = Path("/sys/fs/cgroup")


def free_host_bytes() -> int:
    """Free bytes of the machine, or of the container (cgroup v2) if that has fewer. The page cache counts as free,
    because the kernel reclaims it on demand; files in memory (tmpfs) do not."""
    of_machine = psutil.virtual_memory().available
    try:
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        reclaimable = int(statistics["file"]) - int(statistics["shmem"])
        return min(limit - used + reclaimable, of_machine)
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return of_machine
