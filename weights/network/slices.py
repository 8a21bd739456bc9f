"""An HTTP response that waits in short intervals, so that a job can be cancelled between two of them."""

import io
import socket
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING

from weights.network.failures import POLL_SECONDS

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class SlicedResponse(HTTPResponse):
    """An HTTP response that waits for the timeout of its socket, in intervals of POLL_SECONDS."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        """The signature is that of http.client.HTTPResponse."""
        super().__init__(sock, debuglevel, method)
        self.fp = io.BufferedReader(_Slices(sock, self.fp))


class _Slices(io.RawIOBase):
    """The bytes that a socket receives; raises TimeoutError after the socket's original timeout."""

    def __init__(self, sock: socket.socket, original: io.BufferedReader) -> None:
        """`original` is never read: it keeps the socket open until it is closed."""
        self.sock, self.original = sock, original
        self.read_timeout = sock.gettimeout() or 0.0
        sock.settimeout(min(POLL_SECONDS, self.read_timeout))

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Wait for the next bytes."""
        end = time.monotonic() + self.read_timeout
        while True:
            try:
                return self.sock.recv_into(buffer)
            except TimeoutError:
                if time.monotonic() >= end:
                    raise

    def close(self) -> None:
        """Release the socket too."""
        self.original.close()
        super().close()
