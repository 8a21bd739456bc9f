"""A small HTTP server in this process, for what a test serves to the server under test."""

import contextlib
import json
import queue
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing to the output of the test."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""

    def body(self) -> bytes:
        """The body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def respond(self, content: bytes, *, media_type: str = "application/json", status: int = 200) -> None:
        """Send a complete response."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def http_server(handler: type[QuietHandler], *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server with `handler` while the context is open, and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()  # after an error in the test too: on a closed socket, the thread would never sleep again


@contextlib.contextmanager
def served_file(content: bytes) -> Iterator[str]:
    """A URL of `content`; like the URLs of Replicate, it ends in /data and has no suffix."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.respond(content, media_type="application/octet-stream")

    with http_server(Handler) as url:
        yield f"{url}/files/some-id/data"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL to which a Cog server can report, and the events that it has reported."""

    url: str
    events: queue.Queue[dict[str, Any]]


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver of the events of a Cog server."""
    events: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            events.put(json.loads(self.body()))
            self.respond(b"{}")

    with http_server(Handler) as url:
        yield Webhook(url, events)
