"""A small Replicate on loopback: its HTTP API in front of two real Cog servers, for its Python client to talk to.

Of the platform it has what a person needs to train and then draw: files, trainings, versions and predictions.
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
from tests.cog_client import Answer, Json, call, post_prediction, post_training
from tests.loopback import QuietHandler, listening

MADE_AT = "2026-11-24T00:00:00Z"


@dataclass(slots=True)
class Replicate:
    """What the platform knows. One of its own answers is a dict; a file's content is bytes."""

    trainer: Server
    predictor: Server
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Json] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)  # of each trained version, as a data URI
    latest: dict[str, str] = field(default_factory=dict)  # the newest version of each model

    def create_file(self, content: bytes) -> Json:
        """Keep an upload; its URL ends in /data, as the platform's do."""
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
            "created_at": MADE_AT,
            "urls": {"get": f"{self.url}/v1/files/{name}/data"},
        }

    def create_training(self, body: Json, *, version: str) -> Json:
        """Train in the background; the client asks again until it is done."""
        job = self._new_job("trainings", body, version=version)
        threading.Thread(target=self._train, args=(job, body["destination"]), daemon=True).start()
        return job

    def create_prediction(self, body: Json, *, version: str) -> Json:
        """Draw at once. The LoRA of a trained version comes in as `replicate_weights`."""
        job = self._new_job("predictions", body, version=version)
        trained = {"replicate_weights": self.weights[version]} if version in self.weights else {}
        return _finish(job, post_prediction(self.predictor, **trained, **body["input"]))

    def version(self, name: str) -> Json:
        """A version, with the schema of the server that runs it."""
        schema = call("GET", f"{self.predictor.url}/openapi.json").body
        return {"id": name, "created_at": MADE_AT, "cog_version": "0.23.1", "openapi_schema": schema}

    def _train(self, job: Json, destination: str) -> None:
        answer = post_training(self.trainer, **job["input"])
        if answer.body.get("status") == "succeeded":
            weights = answer.body["output"]["weights"]
            version = hashlib.sha256(weights.encode()).hexdigest()
            self.weights[version], self.latest[destination] = weights, version
            answer.body["output"]["version"] = f"{destination}:{version}"
        _finish(job, answer)

    def _new_job(self, kind: str, body: Json, *, version: str) -> Json:
        name = _new_name()
        url = f"{self.url}/v1/{kind}/{name}"
        self.jobs[name] = {
            "id": name,
            "model": "me/model",
            "version": version,
            "input": body["input"],
            "status": "starting",
            "created_at": MADE_AT,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }
        return self.jobs[name]


def _new_name() -> str:
    return uuid.uuid4().hex


def _finish(job: Json, answer: Answer) -> Json:
    """Take over Cog's answer; a 422 of Cog is a failed job of the platform. The status comes last: it is polled."""
    refused = {"status": "failed", "error": json.dumps(answer.body.get("detail"))}
    result = answer.body if answer.status == HTTPStatus.OK else refused
    job |= {name: result.get(name) for name in ("output", "logs", "error", "metrics")}
    job["status"] = result["status"]
    return job


def _respond(replicate: Replicate, request: list[str], body: bytes) -> Json | bytes | None:
    """The answer to a request, given as its method and the parts of its path; None to one that is not understood."""
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


def _uploaded(body: bytes, content_type: str) -> bytes:
    """The content of the only part of a multipart body; any other body as it is."""
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
            self._reply(_uploaded(self.body(), self.headers.get("Content-Type", "")))

        def _reply(self, body: bytes) -> None:
            result = _respond(replicate, [self.command, *urlsplit(self.path).path.strip("/").split("/")], body)
            if isinstance(result, bytes):
                self.answer(result, media_type="application/octet-stream")
            else:
                status = HTTPStatus.NOT_FOUND if result is None else HTTPStatus.OK
                self.answer(json.dumps(result or {"detail": "not understood"}).encode(), status=status)

    return Handler


@contextlib.contextmanager
def fake_replicate(*, trainer: Server, predictor: Server) -> Iterator[Replicate]:
    """The platform, reachable at its `url` as long as the context lasts."""
    replicate = Replicate(trainer, predictor)
    with listening(_handler(replicate)) as url:
        replicate.url = url
        yield replicate
