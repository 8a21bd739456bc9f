"""Servers on this machine that answer as a test tells them to, well or badly, and remember what they were asked."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from tests.loopback import QuietHandler, listening
from weights.network.network import Network, NetworkTimeouts

# The pauses and limits of production, in hundredths
SHORT_TIMEOUTS = NetworkTimeouts(
    connecting=1, silence=0.5, whole=5, min_bytes_per_second=100_000, window=0.4, pauses=(0.01,) * 5, max_retry_delay=3
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that came."""

    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class Service:
    """A server that listens, and what it was asked so far."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def host(self) -> str:
        """As errors name it."""
        return "127.0.0.1"

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


Reply = Callable[[QuietHandler, Service], None]


@contextlib.contextmanager
def service(reply: Reply) -> Iterator[Service]:
    """A server that answers every GET with `reply`, and every HEAD with its head."""
    it = Service()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            it.asked.append(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}))
            with contextlib.suppress(ConnectionError):
                reply(self, it)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

    with listening(Handler) as url:
        it.url = url
        yield it


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """A URL where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def a_network(*services: Service | str, **changes) -> Network:
    """A network in which these servers of this machine may be asked, hastily."""
    urls = [it if isinstance(it, str) else it.url for it in services]
    return replace(Network(trusted=frozenset(urls), patience=SHORT_TIMEOUTS), **changes)


def send(request: QuietHandler, content: bytes = b"", *, status: int = 200, **headers: str) -> None:
    """A whole answer; underscores in the names of headers stand for dashes."""
    send_head(request, status, **{"Content_Length": str(len(content)), **headers})
    if request.command != "HEAD":
        request.wfile.write(content)


def send_head(request: QuietHandler, status: int, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()


def send_json(request: QuietHandler, content: object, *, status: int = 200) -> None:
    send(request, json.dumps(content).encode(), status=status, Content_Type="application/json")


def redirect(request: QuietHandler, url: str, *, status: int = 302) -> None:
    send(request, status=status, Location=url)


def send_from(request: QuietHandler, content: bytes, *, etag: str) -> None:
    """What a good server does: the rest after a Range of the same version, nothing new if it is known, or all of it."""
    if request.headers.get("If-None-Match") == etag:
        send_head(request, 304, ETag=etag)
        return
    first = request.headers.get("Range", "")
    if first and request.headers.get("If-Range") == etag:
        start = int(first.removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        send(request, content[start:], status=206, ETag=etag, Content_Range=span)
        return
    send(request, content, ETag=etag)
