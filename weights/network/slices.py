"""An answer waited for in short slices: a job can be ended between two of them, and not while a socket is read."""

import io
import socket
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING

from weights.network.failures import POLL_SECONDS

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class SlicedResponse(HTTPResponse):
    """An answer whose server may be silent for as long as the socket's timeout says."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        """As http.client calls it."""
        super().__init__(sock, debuglevel, method)
        self.fp = io.BufferedReader(_Slices(sock, self.fp))


class _Slices(io.RawIOBase):
    """What a socket sends; raises TimeoutError after its whole silence."""

    def __init__(self, connected: socket.socket, held: io.BufferedReader) -> None:
        """`held` is not read: as long as it is open, so is the socket."""
        self.connected, self.held = connected, held
        self.silence = connected.gettimeout() or 0.0
        connected.settimeout(min(POLL_SECONDS, self.silence))

    def readable(self) -> bool:
        """It is nothing else."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Wait for the next bytes."""
        end = time.monotonic() + self.silence
        while True:
            try:
                return self.connected.recv_into(buffer)
            except TimeoutError:
                if time.monotonic() >= end:
                    raise

    def close(self) -> None:
        """Let go of the socket too."""
        self.held.close()
        super().close()
