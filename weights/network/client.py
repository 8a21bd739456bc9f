"""Send one HTTP request and follow its redirects, checking every URL. Does not retry."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from weights.network.failures import TransientFailure
from weights.network.network import Network, NetworkTimeouts
from weights.network.slices import SlicedResponse
from weights.network.url_policy import PORTS, CheckedUrl, check_url, origin_of

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_HEADERS = {"User-Agent": "flux-lora", "Accept-Encoding": "identity"}  # compression would hide the size
SHORTEST = 0.001  # seconds, as a timeout of 0 means none
UNREACHABLE_RETRIES = 1  # two connection attempts take less than half a minute

RawResponse = urllib3.response.BaseHTTPResponse


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A GET request: a URL, additional headers, and a token that is sent to the origin of the URL only."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str = field(default="", repr=False)
    token_input: str = ""  # the user's input that holds the token, for errors


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response whose body has not been read yet."""

    host: str
    raw: RawResponse
    deadline: float  # time.monotonic() at which the body must be complete

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return self.raw.status

    def header(self, name: str) -> str:
        """Return the value of a header, or an empty string if it is missing."""
        return str(self.raw.headers.get(name, ""))

    def read(self, size: int) -> bytes:
        """Return the next bytes of the body, at most `size`, and no bytes at its end.

        Raises TransientFailure if the connection is lost, and ValueError after the deadline.
        """
        try:
            chunk = bytes(self.raw.read1(size))
        except (HTTPError, OSError) as error:
            self._check_deadline()
            raise TransientFailure(f"was cut off by {self.host}") from error
        self._check_deadline()  # also at the end of the body: _close_after makes a body look complete
        return chunk

    def _check_deadline(self) -> None:
        if time.monotonic() >= self.deadline:
            raise ValueError(f"came too slowly from {self.host}: expected the file in time")


@contextlib.contextmanager
def send_request(request: HttpRequest, network: Network, *, attempt: int) -> Iterator[HttpResponse]:
    """Send a request and yield the response after at most five redirects.

    `attempt` selects one of the addresses of the host. Raises ValueError if a URL may not be requested, and
    TransientFailure if a retry may succeed. The messages complete a sentence that starts with the reference.
    """
    if not request.token.isascii() or not request.token.isprintable() or " " in request.token:
        raise ValueError("was requested with a token that contains spaces or characters that tokens do not have")
    started, timeouts = time.monotonic(), network.timeouts
    origin, url, token = origin_of(request.url), request.url, request.token
    for _ in range(MAX_REDIRECTS + 1):
        checked = check_url(url, network)
        headers = {**DEFAULT_HEADERS, **request.headers}
        if checked.origin != origin:
            token = ""  # also if it redirects back: another host must not choose what the token opens
        if token:
            headers["Authorization"] = f"Bearer {token}"
        silence = started + timeouts.max_total_delay - time.monotonic()  # of all redirects together
        left = replace(timeouts, read=min(timeouts.read, max(silence, SHORTEST)))
        with _open_response(checked, headers, left, attempt, started + timeouts.total) as raw:
            if raw.status not in REDIRECTS:
                yield HttpResponse(checked.host, raw, started + timeouts.total)
                return
            url = _redirect_url(url, checked, raw)
    raise ValueError(f"was redirected more than {MAX_REDIRECTS} times: expected the file")


def _redirect_url(url: str, checked: CheckedUrl, raw: RawResponse) -> str:
    try:
        return urljoin(url, raw.headers.get("Location", ""))
    except ValueError as error:
        expected = "expected https://host/path"
        raise ValueError(f"was redirected by {checked.host} to an invalid URL: {expected}") from error


@contextlib.contextmanager
def _open_response(
    url: CheckedUrl, headers: Mapping[str, str], timeouts: NetworkTimeouts, attempt: int, deadline: float
) -> Iterator[RawResponse]:
    connection = _connection(url, timeouts, attempt)
    try:
        raw, sock = _send_once(connection, url, headers, timeouts)
        with _close_after(sock, seconds=deadline - time.monotonic()):
            yield raw
    finally:
        connection.close()


def _connection(url: CheckedUrl, timeouts: NetworkTimeouts, attempt: int) -> HTTPConnection:
    """Create a connection to a checked address. The certificate is verified against the host name, not the address."""
    address = url.addresses[attempt % len(url.addresses)]
    timeout = timeouts.connect
    if url.scheme == "http":
        return HTTPConnection(address, url.port, timeout=timeout)
    return HTTPSConnection(
        address,
        url.port,
        timeout=timeout,
        server_hostname=url.host,
        ssl_context=ssl.create_default_context(),
    )


def _send_once(
    connection: HTTPConnection, url: CheckedUrl, headers: Mapping[str, str], timeouts: NetworkTimeouts
) -> tuple[RawResponse, socket.socket]:
    """Return the response, its headers read, and the socket from which the body comes."""
    host_header = {"Host": _host_header(url)}
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"needs {url.host}, whose certificate is not valid for this name") from error
    except (HTTPError, OSError) as error:
        raise TransientFailure(f"needs {url.host}, which cannot be reached", max_retries=UNREACHABLE_RETRIES) from error
    sock = connection.sock  # the connection drops its reference if the server closes after this response
    connection.timeout = timeouts.read  # urllib3 sets it on the socket for every request and response
    connection.response_class = SlicedResponse
    try:
        with _close_after(sock, seconds=timeouts.read):
            connection.request(
                "GET", url.target, headers={**host_header, **headers}, preload_content=False, decode_content=False
            )
            return connection.getresponse(), sock
    except (HTTPError, HTTPException, OSError) as error:
        raise TransientFailure(f"got no response from {url.host}") from error


def _host_header(url: CheckedUrl) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port == PORTS[url.scheme] else f"{host}:{url.port}"


@contextlib.contextmanager
def _close_after(sock: socket.socket, *, seconds: float) -> Iterator[None]:
    """Shut a socket down after `seconds`. Its own timeout does not bound a response: it restarts with every byte."""
    timer = threading.Timer(seconds, _shut_down, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
