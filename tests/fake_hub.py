"""A small Hugging Face Hub in this process: users, repositories of models and Spaces, uploads and downloads, with the
faults of a test."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from huggingface_hub import ModelCard

from tests.loopback import QuietHandler, http_server

WRITE, READ, FINE_GRAINED = "hf_s3cret-write", "hf_s3cret-read", "hf_s3cret-fine"  # tokens of the user `me`
ROLES = {WRITE: "write", READ: "read", FINE_GRAINED: "fineGrained"}
USER = "me"
COMMIT = "c0ffee" * 6 + "beef"
HANGS = 0  # in place of a status: no response as long as the server runs
REPOSITORY = re.compile(r"/api/(models|spaces)/([^/]+/[^/]+)(.*)")
RESOLVED = re.compile(r"/([^/]+/[^/]+)/resolve/main/(.*)")


@dataclass
class Repository:
    """A repository, with its files."""

    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    hardware: str = ""  # of a Space
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeHub:
    """The state of the server. `faults` are statuses for the next requests, by a part of their method and path."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)  # the name of a Space begins with spaces/
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, before a commit names them
    faults: dict[str, list[int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # methods and paths
    ended: threading.Event = field(default_factory=threading.Event)

    def count(self, part: str) -> int:
        """How many requests have this in their method and path."""
        return sum(part in request for request in self.requests)


@contextmanager
def fake_hub(**faults: list[int]) -> Iterator[FakeHub]:
    """Run the server while the context is open."""
    hub = FakeHub(faults=dict(faults))

    class Handler(_Handler):
        state = hub

    with http_server(Handler) as url:
        hub.url = url
        try:
            yield hub
        finally:
            hub.ended.set()


class _Handler(QuietHandler):
    state: FakeHub

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - http.server's names

    def _serve(self) -> None:
        hub, body = self.state, self.body()
        hub.requests.append(f"{self.command} {self.path}")
        with suppress(ConnectionError):
            for part, statuses in hub.faults.items():
                if part in hub.requests[-1] and statuses:
                    self._fail(statuses.pop(0))
                    return
            self._route(self.path.partition("?")[0], body)

    def _fail(self, status: int) -> None:
        if status == HANGS:
            self.state.ended.wait()
        self._send({"error": "it broke"}, status or 500)

    def _route(self, path: str, body: bytes) -> None:
        hub, role = self.state, ROLES.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if path.startswith("/lfs/"):
            hub.uploaded[path.removeprefix("/lfs/")] = body
            self._send({})
        elif role is None:
            self._send({"error": "Invalid credentials in Authorization header"}, 401)
        elif path == "/api/whoami-v2":
            self._send({"name": USER, "auth": {"accessToken": {"role": role}}})
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif found := RESOLVED.fullmatch(path):
            self._file(hub.repositories[found[1]].files[found[2]])
        elif (found := REPOSITORY.fullmatch(path)) and (name := _key(found[1], found[2])) in hub.repositories:
            self._repository(name, found[3], body, may_write=role != "read" and found[2].startswith(f"{USER}/"))
        else:
            self._send({"error": "Repository not found"}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        owner = asked["organization"] or USER
        name = _key(f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}")
        if name in self.state.repositories:
            self._send({"error": "You already created this model repo", "url": f"{self.state.url}/{name}"}, 409)
        elif owner != USER:
            self._send({"error": "You don't have the rights to create a model under this namespace"}, 403)
        else:
            is_private = asked.get("visibility") == "private" or asked.get("private", False)
            self.state.repositories[name] = Repository(is_private, hardware=asked.get("hardware", ""))
            self._send({"url": f"{self.state.url}/{name}"})

    def _repository(self, name: str, rest: str, body: bytes, *, may_write: bool) -> None:
        repository = self.state.repositories[name]
        if rest in ("", "/revision/main"):
            self._send(
                {
                    "id": name,
                    "private": repository.is_private,
                    "siblings": [{"rfilename": file} for file in repository.files],
                    "cardData": _card_data(repository),
                }
            )
        elif not may_write:
            self._send({"error": "Forbidden: you must have write access"}, 403)
        elif rest == "/auth-check/write":
            self._send({})
        elif rest == "/preupload/main":
            files = json.loads(body)["files"]
            modes = {
                file["path"]: "lfs" if file["path"].endswith((".safetensors", ".jpg")) else "regular" for file in files
            }
            self._send(
                {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}
            )
        elif rest in ("/variables", "/secrets"):
            asked = json.loads(body)
            getattr(repository, rest[1:])[asked["key"]] = asked["value"]
            self._send({name: {"value": value} for name, value in repository.variables.items()})
        elif rest == "/commit/main":
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        else:
            self._send({"error": "Not found"}, 404)

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.state.url}/lfs/{each['oid']}?X-Amz-Signature=s3cret"}}}
            for each in asked["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.state.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.state.uploaded[value["oid"]]
                assert sha256(content).hexdigest() == value["oid"]
                repository.files[value["path"]] = content
        repository.commits += 1
        self._send({"commitUrl": f"{self.state.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _file(self, content: bytes) -> None:
        self.send_response(200)
        for name, value in {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send(self, content: object, status: int = 200) -> None:
        self.respond(json.dumps(content).encode(), status=status)


def _key(kind: str, name: str) -> str:
    return f"spaces/{name}" if kind == "spaces" else name


def _card_data(repository: Repository) -> dict[str, Any] | None:
    readme = repository.files.get("README.md")
    return ModelCard(readme.decode()).data.to_dict() if readme else None
