"""One question to another machine, and its answer after redirects, each of them checked. Repeats nothing."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from weights.network.failures import TransientFailure
from weights.network.network import Network
from weights.network.slices import SlicedResponse
from weights.network.url_policy import PORTS, Place, check_url, origin_of

MOST_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
ALWAYS = {"User-Agent": "flux-lora", "Accept-Encoding": "identity"}  # no compression that would hide a size
UNREACHABLE_RETRIES = 1  # twice the time to connect stays under half a minute

Response = urllib3.response.BaseHTTPResponse


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a URL, more headers, and a token that goes to the URL's own origin only."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, its body still to be read."""

    host: str
    response: Response
    until: float  # time.monotonic(): all of it must be there by then

    @property
    def status(self) -> int:
        """The status code of HTTP."""
        return self.response.status

    def header(self, name: str) -> str:
        """A header, or nothing."""
        return str(self.response.headers.get(name, ""))

    def piece(self, most: int) -> bytes:
        """The next bytes of the body as they come, nothing at its end; raises TransientFailure, and ValueError if the time
        is over."""
        try:
            piece = bytes(self.response.read1(most))
        except (HTTPError, OSError) as error:
            self._check_time()
            raise TransientFailure(f"was cut off by {self.host} before its end") from error
        self._check_time()  # also at the end: that of a connection that was ended by us is none
        return piece

    def _check_time(self) -> None:
        if time.monotonic() >= self.until:
            raise ValueError(f"came too slowly: {self.host} was given up")


@contextlib.contextmanager
def ask(question: Question, network: Network, *, attempt: int) -> Iterator[Answer]:
    """The answer at the end of at most five redirects.

    `attempt` chooses among the addresses of a host. Raises ValueError with the end of a sentence for a place that may
    not be asked, and TransientFailure where another time may help.
    """
    if not question.token.isascii() or not question.token.isprintable() or " " in question.token:
        raise ValueError("came with a token that holds a space or signs that no token has")
    until = time.monotonic() + network.patience.whole
    origin, url, token = origin_of(question.url), question.url, question.token
    for _ in range(MOST_REDIRECTS + 1):
        place = check_url(url, network)
        headers = {**ALWAYS, **question.headers}
        if place.origin != origin:
            token = ""  # for good: another host must not choose what it opens when it sends us back
        if token:
            headers["Authorization"] = f"Bearer {token}"
        with _answer(place, headers, network, attempt, until) as response:
            if response.status not in REDIRECTS:
                yield Answer(place.host, response, until)
                return
            url = _redirected(url, place, response)
    raise ValueError(f"was redirected more than {MOST_REDIRECTS} times: expected an answer")


def _redirected(url: str, place: Place, response: Response) -> str:
    try:
        return urljoin(url, response.headers.get("Location", ""))
    except ValueError as error:
        expected = "expected https://host/path"
        raise ValueError(f"was redirected by {place.host} to a URL that cannot be read: {expected}") from error


@contextlib.contextmanager
def _answer(
    place: Place, headers: Mapping[str, str], network: Network, attempt: int, until: float
) -> Iterator[Response]:
    connection = _connection(place, network, attempt)
    try:
        response, connected = _ask_once(connection, place, headers, network)
        with _cut_off(connected, after=until - time.monotonic()):
            yield response
    finally:
        connection.close()


def _connection(place: Place, network: Network, attempt: int) -> HTTPConnection:
    """A connection to an address that was checked, whose certificate must be that of the host's name."""
    address = place.addresses[attempt % len(place.addresses)]
    timeout = network.patience.connecting
    if place.scheme == "http":
        return HTTPConnection(address, place.port, timeout=timeout)
    return HTTPSConnection(
        address,
        place.port,
        timeout=timeout,
        server_hostname=place.host,
        ssl_context=ssl.create_default_context(),
    )


def _ask_once(
    connection: HTTPConnection, place: Place, headers: Mapping[str, str], network: Network
) -> tuple[Response, socket.socket]:
    """The answer as far as its body, and the socket that the body comes from."""
    named = {"Host": _host_header(place)}
    try:
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"needs {place.host}, whose certificate is not that of a host with this name") from error
    except (HTTPError, OSError) as error:
        raise TransientFailure(f"needs {place.host}, which cannot be reached", most=UNREACHABLE_RETRIES) from error
    connected = connection.sock  # the connection forgets it when the server says that this answer is the last
    connection.timeout = network.patience.silence  # which it gives to the socket with every request and answer
    connection.response_class = SlicedResponse
    try:
        with _cut_off(connected, after=network.patience.silence):
            connection.request(
                "GET", place.target, headers={**named, **headers}, preload_content=False, decode_content=False
            )
            return connection.getresponse(), connected
    except (HTTPError, HTTPException, OSError) as error:
        raise TransientFailure(f"got no answer from {place.host}") from error


def _host_header(place: Place) -> str:
    host = f"[{place.host}]" if ":" in place.host else place.host
    return host if place.port == PORTS[place.scheme] else f"{host}:{place.port}"


@contextlib.contextmanager
def _cut_off(connected: socket.socket, *, after: float) -> Iterator[None]:
    """End a connection that answers too slowly: its own limit starts again with each byte."""
    timer = threading.Timer(after, _shut, [connected])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
