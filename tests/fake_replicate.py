"""A small Replicate on loopback: its HTTP API in front of two real Cog servers, for tests with its Python client.

It implements what is needed to train and then generate: files, trainings, versions and predictions.
"""

import contextlib
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from script.cog_server import Server
from tests.cog_client import CogResponse, Json, call, post_prediction, post_training
from tests.loopback import QuietHandler, http_server

CREATED_AT = "2026-11-24T00:00:00Z"


@dataclass(slots=True)
class Replicate:
    """The state of the platform."""

    trainer: Server
    predictor: Server
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)  # version -> its weights, as a data URI
    latest: dict[str, str] = field(default_factory=dict)  # model -> its newest version

    def create_file(self, content: bytes) -> Json:
        """Store an upload. Its URL ends in /data, like those of the platform."""
        name = _new_name()
        self.files[name] = content
        return {
            "id": name,
            "name": "file",
            "content_type": "application/octet-stream",
            "size": len(content),
            "etag": name,
            "checksums": {},
            "metadata": {},
            "created_at": CREATED_AT,
            "urls": {"get": f"{self.url}/v1/files/{name}/data"},
        }

    def create_training(self, body: Json, *, version: str) -> Json:
        """Train in the background. The client polls until the training ends."""
        job = self._new_job("trainings", body, version=version)
        threading.Thread(target=self._train, args=(job, body["destination"]), daemon=True).start()
        return job

    def create_prediction(self, body: Json, *, version: str) -> Json:
        """Generate at once. The LoRA of a trained version is passed as `replicate_weights`."""
        job = self._new_job("predictions", body, version=version)
        trained = {"replicate_weights": self.weights[version]} if version in self.weights else {}
        return _finish(job, post_prediction(self.predictor, **trained, **body["input"]))

    def version(self, name: str) -> Json:
        """A version, with the schema of the server that runs it."""
        schema = call("GET", f"{self.predictor.url}/openapi.json").body
        return {"id": name, "created_at": CREATED_AT, "cog_version": "0.23.1", "openapi_schema": schema}

    def _train(self, job: Json, destination: str) -> None:
        response = post_training(self.trainer, **job["input"])
        if response.body.get("status") == "succeeded":
            weights = response.body["output"]["weights"]
            version = hashlib.sha256(weights.encode()).hexdigest()
            self.weights[version], self.latest[destination] = weights, version
            response.body["output"]["version"] = f"{destination}:{version}"
        _finish(job, response)

    def _new_job(self, kind: str, body: Json, *, version: str) -> Json:
        name = _new_name()
        url = f"{self.url}/v1/{kind}/{name}"
        self.jobs[name] = {
            "id": name,
            "model": "me/model",
            "version": version,
            "input": body["input"],
            "status": "starting",
            "created_at": CREATED_AT,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }
        return self.jobs[name]


def _new_name() -> str:
    return uuid.uuid4().hex


def _finish(job: Json, response: CogResponse) -> Json:
    """Copy Cog's response into a job. A 422 of Cog is a failed job. The status is set last, because clients poll it."""
    failed = {"status": "failed", "error": json.dumps(response.body.get("detail"))}
    result = response.body if response.status == HTTPStatus.OK else failed
    job |= {name: result.get(name) for name in ("output", "logs", "error", "metrics")}
    job["status"] = result["status"]
    return job


def _route(replicate: Replicate, request: list[str], body: bytes) -> Json | bytes | None:
    """The response to a request, given by its method and the parts of its path; None if the request is unknown.

    A dict is sent as JSON, bytes as the content of a file.
    """
    result: Json | bytes | None = None
    match request:
        case ["POST", "v1", "files"]:
            result = replicate.create_file(body)
        case ["GET", "v1", "files", name, "data"]:
            result = replicate.files[name]
        case ["POST", "v1", "models", _, _, "versions", version, "trainings"]:
            result = replicate.create_training(json.loads(body), version=version)
        case ["GET", "v1", "trainings" | "predictions", name]:
            result = replicate.jobs[name]
        case ["POST", "v1", "predictions"]:
            result = replicate.create_prediction(json.loads(body), version=json.loads(body)["version"])
        case ["POST", "v1", "models", owner, name, "predictions"]:
            result = replicate.create_prediction(json.loads(body), version=replicate.latest[f"{owner}/{name}"])
        case ["GET", "v1", "models", _, _, "versions", version]:
            result = replicate.version(version)
    return result


def _uploaded_file(body: bytes, content_type: str) -> bytes:
    """The content of the only part of a multipart body; any other body unchanged."""
    boundary = re.search(r"boundary=(\S+)", content_type)
    if boundary is None:
        return body
    _, part, *_ = body.split(b"--" + boundary[1].encode())
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def _handler(replicate: Replicate) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            self._reply(b"")

        def do_POST(self) -> None:  # noqa: N802 - http.server's name
            self._reply(_uploaded_file(self.body(), self.headers.get("Content-Type", "")))

        def _reply(self, body: bytes) -> None:
            result = _route(replicate, [self.command, *urlsplit(self.path).path.strip("/").split("/")], body)
            if isinstance(result, bytes):
                self.respond(result, media_type="application/octet-stream")
            else:
                status = HTTPStatus.NOT_FOUND if result is None else HTTPStatus.OK
                self.respond(json.dumps(result or {"detail": "not understood"}).encode(), status=status)

    return Handler


@contextlib.contextmanager
def fake_replicate(*, trainer: Server, predictor: Server) -> Iterator[Replicate]:
    """Run the platform while the context is open; its `url` is that of the API."""
    replicate = Replicate(trainer, predictor)
    with http_server(_handler(replicate)) as url:
        replicate.url = url
        yield replicate
