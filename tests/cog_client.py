"""A client of a Cog server."""

import base64
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal

from script.cog_server import Server

BUSY = 409  # Cog also returns this for a moment after a finished job
SECONDS_TO_BE_FREE = 30
SECONDS_BETWEEN_ATTEMPTS = 0.01
SECONDS_FOR_A_JOB = 600

Json = dict[str, Any]
Method = Literal["GET", "POST", "PUT"]


@dataclass(frozen=True, slots=True)
class CogResponse:
    """A response: its status and its JSON body."""

    status: int
    body: Json


def post_training(server: Server, **inputs: object) -> CogResponse:
    """Run a training, and wait for its end."""
    return when_free("POST", f"{server.url}/trainings", {"input": inputs})


def post_prediction(server: Server, **inputs: object) -> CogResponse:
    """Run a prediction, and wait for its end."""
    return when_free("POST", f"{server.url}/predictions", {"input": inputs})


def images_of(server: Server, **inputs: object) -> list[bytes]:
    """Run a prediction, check that it succeeded, and return its images."""
    response = post_prediction(server, **inputs)
    assert response.body.get("status") == "succeeded", response
    return [content_of(uri) for uri in response.body["output"]]


def when_free(method: Method, url: str, body: Json, *, prefer: str | None = None) -> CogResponse:
    """Send a request, and repeat it while the server is at capacity."""
    deadline = time.monotonic() + SECONDS_TO_BE_FREE
    while (response := call(method, url, body, prefer=prefer)).status == BUSY and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)
    return response


def call(method: Method, url: str, body: Json | None = None, *, prefer: str | None = None) -> CogResponse:
    """Send one request, and return its JSON response, whatever its status."""
    headers = {"Content-Type": "application/json", **({"Prefer": prefer} if prefer else {})}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_FOR_A_JOB) as opened:
            return CogResponse(opened.status, json.loads(opened.read() or b"{}"))
    except urllib.error.HTTPError as error:
        return CogResponse(error.code, json.loads(error.read() or b"{}"))


def data_uri(content: bytes, *, media_type: str = "application/zip") -> str:
    """Return bytes as a data URI, for an input."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def content_of(uri: str) -> bytes:
    """Return the bytes of an output."""
    assert uri.startswith("data:"), uri[:80]
    return base64.b64decode(uri.partition(",")[2])
