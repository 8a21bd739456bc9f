"""Requests to a Cog server, as a client makes them."""

import base64
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal

from script.cog_server import Server

BUSY = 409  # Cog answers this for a moment after a finished job, too
SECONDS_TO_BE_FREE = 120
SECONDS_FOR_A_JOB = 600

Json = dict[str, Any]
Method = Literal["GET", "POST", "PUT"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: Json


def post_training(server: Server, **inputs: object) -> Answer:
    """Train and wait for the end."""
    return when_free("POST", f"{server.url}/trainings", {"input": inputs})


def post_prediction(server: Server, **inputs: object) -> Answer:
    """Draw and wait for the end."""
    return when_free("POST", f"{server.url}/predictions", {"input": inputs})


def images_of(server: Server, **inputs: object) -> list[bytes]:
    """Draw, and be sure that it succeeded."""
    answer = post_prediction(server, **inputs)
    assert answer.body.get("status") == "succeeded", answer
    return [content_of(uri) for uri in answer.body["output"]]


def when_free(method: Method, url: str, body: Json, *, prefer: str | None = None) -> Answer:
    """Call, again and again as long as the server is at capacity."""
    deadline = time.monotonic() + SECONDS_TO_BE_FREE
    while (answer := call(method, url, body, prefer=prefer)).status == BUSY and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def call(method: Method, url: str, body: Json | None = None, *, prefer: str | None = None) -> Answer:
    """One request with a JSON answer, whatever its status."""
    headers = {"Content-Type": "application/json", **({"Prefer": prefer} if prefer else {})}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_FOR_A_JOB) as response:
            return Answer(response.status, json.loads(response.read() or b"{}"))
    except urllib.error.HTTPError as error:
        return Answer(error.code, json.loads(error.read() or b"{}"))


def data_uri(content: bytes, *, media_type: str = "application/zip") -> str:
    """Bytes as an input."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def content_of(uri: str) -> bytes:
    """The bytes of an output."""
    assert uri.startswith("data:"), uri[:80]
    return base64.b64decode(uri.partition(",")[2])
