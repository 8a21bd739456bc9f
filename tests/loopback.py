"""A small HTTP server in this process, for what a test has to offer to the server it tests."""

import contextlib
import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """Answers without a line in the test's output."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""

    def body(self) -> bytes:
        """What was sent."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content: bytes, *, media_type: str = "application/json", status: int = 200) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def listening(handler: type[QuietHandler]) -> Iterator[str]:
    """The URL of a server that answers with `handler` as long as the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def served_file(content: bytes) -> Iterator[str]:
    """A URL to download `content` from; like one of Replicate's, it ends in /data and has no suffix."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.answer(content, media_type="application/octet-stream")

    with listening(Handler) as url:
        yield f"{url}/files/some-id/data"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a Cog server can report to, and what it reported."""

    url: str
    events: queue.Queue[dict[str, Any]]


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """A receiver of a Cog server's events."""
    events: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            events.put(json.loads(self.body()))
            self.answer(b"{}")

    with listening(Handler) as url:
        yield Webhook(url, events)
