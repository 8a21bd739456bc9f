"""HTTP servers on this machine whose responses a test defines, and which record the requests that they receive."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.loopback import QuietHandler, http_server
from weights.network.network import Network, NetworkTimeouts

# Much shorter than in production
SHORT_TIMEOUTS = NetworkTimeouts(
    connect=1,
    read=0.5,
    total=5,
    min_bytes_per_second=100_000,
    speed_window=0.4,
    retry_delays=(0.01,) * 5,
    max_total_delay=3,
)


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request that a server received."""

    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class Service:
    """A running server and the requests that it has received."""

    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)

    @property
    def host(self) -> str:
        """The host name in error messages."""
        return "127.0.0.1"

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


Reply = Callable[[QuietHandler, Service], None]


@contextlib.contextmanager
def service(reply: Reply, *, tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    """Run a server that responds to every GET with `reply`, and to every HEAD with the headers of that response."""
    server = Service()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append(ReceivedRequest(self.path, headers))
            with contextlib.suppress(ConnectionError):
                reply(self, server)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

    with http_server(Handler, tls=tls) as url:
        server.url = url
        yield server


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """A URL at which a socket listens and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def a_network(*services: Service | str, **changes) -> Network:
    """A network with short timeouts that trusts these servers of this machine."""
    urls = [server if isinstance(server, str) else server.url for server in services]
    return replace(Network(trusted=frozenset(urls), timeouts=SHORT_TIMEOUTS), **changes)


def send(request: QuietHandler, content: bytes = b"", *, status: int = 200, **headers: str) -> None:
    """Send a complete response. Underscores in the names of headers stand for dashes."""
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
    """Respond like a correct server: the rest for a Range of the same version, 304 if it is known, else all of it."""
    if request.headers.get("If-None-Match") == etag:
        send_head(request, 304, ETag=etag)
        return
    range_header = request.headers.get("Range", "")
    if range_header and request.headers.get("If-Range") == etag:
        start = int(range_header.removeprefix("bytes=").removesuffix("-"))
        content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
        send(request, content[start:], status=206, ETag=etag, Content_Range=content_range)
        return
    send(request, content, ETag=etag)


def tls_context(folder: Path, name: str, patch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A context of a server with a certificate for a name, such as DNS:a.test, that this process trusts, and so do the
    processes that it starts."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(certificate), *subject], check=True, capture_output=True)
    patch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
