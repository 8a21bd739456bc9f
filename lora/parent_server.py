"""The HTTP server that started this process as its worker, as Cog's does. Knows no training and no prediction.

Cog's server does not tell its worker that it is shutting down, and goes on without a worker that has died: it then
answers every request with 409.
"""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

SECONDS_TO_END = 5  # between the end of a worker and that of a server that shuts down
# Reads until this process has ended, however it ended: the kernel then closes the other end of the pipe. A process that
# has ended has no exe, even if its parent does not know yet. SIGTERM lets the server finish the response that it sends.
WATCHER = """
read -r _
for _ in $(seq "$2"); do
    sleep 1
    [ -e "/proc/$1/exe" ] || exit 0
done
echo "The worker has died, as when the system runs out of memory; the server cannot go on without it and ends." >&2
kill -TERM "$1"
"""


class ParentServer:
    """The HTTP server in the parent process."""

    def __init__(self) -> None:
        self._id = os.getppid()
        self._listeners: dict[Path, Path] | None = None  # links of its descriptors to sockets; None: not looked up
        self._is_hidden = False  # by the system, from this process

    def is_shutting_down(self) -> bool:
        """Whether the server is gone, or accepts no connections any more: it closes its listener as soon as it is asked
        to end, and then waits for the responses that it still owes. Takes microseconds but for the first time."""
        if self._listeners is None and not self._is_hidden:
            self._look_up()
        if os.getppid() != self._id:
            return True
        return self._listeners is not None and not any(_link(path) == link for path, link in self._listeners.items())

    def _look_up(self) -> None:
        try:
            self._listeners = _listeners(self._id)
        except psutil.NoSuchProcess:
            self._listeners = {}
        except psutil.AccessDenied:
            self._is_hidden = True

    def end_if_this_process_dies(self) -> None:
        """From now on, end the server if this process dies, so that whoever supervises the server can start it again.

        A small process waits for that. Its message goes where the server's errors go, if that can be opened.
        """
        read_end, _ = os.pipe()  # the other end is never written to, and stays open as long as this process lives
        with os.fdopen(read_end, "rb") as pipe, _errors_of(self._id) as errors:
            command = ["sh", "-c", WATCHER, "sh", str(self._id), str(SECONDS_TO_END)]
            subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=errors)


def _listeners(process: int) -> dict[Path, Path]:
    """The sockets on which a process listens for TCP connections: descriptor -> what Linux says that it is.

    Raises psutil.NoSuchProcess or psutil.AccessDenied.
    """
    connections = psutil.Process(process).net_connections("tcp")
    paths = [Path(f"/proc/{process}/fd/{each.fd}") for each in connections if each.status == psutil.CONN_LISTEN]
    return {path: link for path in paths if (link := _link(path))}


def _link(path: Path) -> Path | None:
    with suppress(OSError):
        return path.readlink()
    return None


def _errors_of(process: int) -> BinaryIO:
    """A new file that writes where a process writes its errors; to nowhere if that cannot be opened, as a socket."""
    try:
        return Path(f"/proc/{process}/fd/2").open("ab")
    except OSError:
        return Path(os.devnull).open("ab")
