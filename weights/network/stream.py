"""Read a remote file in order from any offset, reconnecting after a lost connection. Never mixes two versions.

Keeps nothing: the caller writes, hashes and limits what it reads.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from weights.network.client import HttpRequest, HttpResponse, send_request
from weights.network.download import LENGTH, LONGEST_ETAG, OK, PARTIAL, RANGE
from weights.network.failures import TransientFailure, retry
from weights.network.network import Network
from weights.network.statuses import check_status

CHUNK_BYTES = 2**20
ACCEPTED = frozenset({OK, PARTIAL})


class Changed(ValueError):  # noqa: N818 - a definite response, not an error of the request
    """The server has another version of the file than the one that was begun, or cannot say whether it has."""


@dataclass(slots=True)
class RemoteStream:
    """The bytes of a file from `offset` on. Retries begin anew after every byte: a long file may be cut off often."""

    request: HttpRequest
    network: Network
    offset: int = 0  # of the next byte
    validator: str = ""  # the ETag or, without a strong one, the date of the version; a resumed stream must match it
    total: int | None = None  # bytes of the whole file; None if the server does not say
    _response: HttpResponse | None = None
    _connection: ExitStack = field(default_factory=ExitStack)
    _window: tuple[float, int] = (0.0, 0)  # when the speed was checked last, and the offset at that time

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Return the next bytes, at most `size`, and no bytes at the end of the file.

        Raises ValueError, also its subclasses NotFound, AccessDenied and Changed, with a message that completes a
        sentence that starts with the reference.
        """
        return retry(lambda attempt: self._read_once(size, attempt), self.network.timeouts)

    def open(self) -> None:
        """Send the request if it was not sent yet, so that `total` is known. Raises the errors of `read`."""
        if self._response is None:
            retry(self._open, self.network.timeouts)

    def close(self) -> None:
        """Close the connection. A later `read` opens another one."""
        self._response = None
        self._connection.close()

    def _read_once(self, size: int, attempt: int) -> bytes:
        response = self._response or self._open(attempt)
        try:
            chunk = response.read(size)
            self._check_end(chunk, response.host)
        except TransientFailure:
            self.close()
            raise
        self.offset += len(chunk)
        self._check_speed(response.host)
        return chunk

    def _open(self, attempt: int) -> HttpResponse:
        self.close()
        begun = self.offset
        headers = {"Range": f"bytes={begun}-", "If-Range": self.validator} if begun and self.validator else {}
        request = HttpRequest(self.request.url, {**self.request.headers, **headers}, self.request.token)
        with ExitStack() as connection:
            response = connection.enter_context(send_request(request, self.network, attempt=attempt))
            check_status(response, accepted=ACCEPTED, token_given=bool(request.token))
            _refuse_other_content(response)
            self._check_version(response)
            if response.status == OK:
                _skip(response, begun)
            self._connection = connection.pop_all()
        self._response, self._window = response, (time.monotonic(), self.offset)
        return response

    def _check_end(self, chunk: bytes, host: str) -> None:
        if not chunk and self.total not in {None, self.offset}:
            raise TransientFailure(f"was cut off by {host} after {self.offset:,} of {self.total:,} bytes")

    def _check_version(self, response: HttpResponse) -> None:
        """Take over version and length at the first response; later ones must have the same."""
        validator, (first, total) = _validator(response), _extent(response)
        is_continued = validator == self.validator != "" and (self.total is None or total in {None, self.total})
        if self.offset and not (is_continued and (first is None or first == self.offset)):
            raise Changed(f"changed on {response.host} during the download, or cannot be resumed there")
        self.validator, self.total = validator, total if total is not None else self.total

    def _check_speed(self, host: str) -> None:
        timeouts, (started, offset) = self.network.timeouts, self._window
        seconds = time.monotonic() - started
        if seconds < timeouts.speed_window:
            return
        speed = (self.offset - offset) / seconds
        if speed < timeouts.min_bytes_per_second:
            expected = f"expected at least {timeouts.min_bytes_per_second:,.0f}"
            raise ValueError(f"came from {host} at {speed:,.0f} bytes per second: {expected}")
        self._window = (time.monotonic(), self.offset)


def _skip(response: HttpResponse, count: int) -> None:
    """Read what is known already, from a server that sends the whole file again."""
    while count > 0:
        chunk = response.read(min(count, CHUNK_BYTES))
        if not chunk:
            raise TransientFailure(f"was cut off by {response.host}")
        count -= len(chunk)


def _refuse_other_content(response: HttpResponse) -> None:
    if response.header("Content-Encoding").lower() not in {"", "identity"}:
        raise ValueError(f"was sent compressed by {response.host}: expected the file as it is")
    if response.header("Content-Type").lower().startswith("text/html"):
        raise ValueError(f"is a web page of {response.host}, perhaps a login or an error: expected the file")


def _validator(response: HttpResponse) -> str:
    """Return what If-Range takes (RFC 9110, 13.1.5): a strong ETag, else the date of the last change, else nothing."""
    etag, date = response.header("ETag"), response.header("Last-Modified")
    validator = etag if etag.startswith('"') else date
    return validator if validator.isascii() and validator.isprintable() and len(validator) <= LONGEST_ETAG else ""


def _extent(response: HttpResponse) -> tuple[int | None, int | None]:
    """Return the offset of a partial response, None for a complete one, and the length of the whole file if known."""
    if response.status == OK:
        length = response.header("Content-Length")
        return None, int(length) if LENGTH.fullmatch(length) else None
    found = RANGE.fullmatch(response.header("Content-Range"))
    if found is None:
        raise TransientFailure(f"could not be resumed at {response.host}")
    return int(found["first"]), None if found["total"] == "*" else int(found["total"])
