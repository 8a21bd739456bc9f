"""The process that talks to Hugging Face. Its parent can kill it at any time: most requests of huggingface_hub have no
timeout, and a thread that waits for one cannot be ended.

It reads a `Request` as JSON from standard input, and writes a `Reply` as JSON to standard output.
"""

import json
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, SpaceHardware
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # that of httpx or httpx2, as this version uses
from huggingface_hub.hf_api import ModelInfo, SpaceInfo

UNAUTHORIZED, PAYMENT_REQUIRED, FORBIDDEN, NOT_FOUND = 401, 402, 403, 404
# Timeout, conflict, precondition failed (another commit came first), too many requests, and all errors of a server.
TRANSIENT, FIRST_SERVER_ERROR = (408, 409, 412, 429), 500
MODEL, SPACE = "model", "space"  # types of repositories
COMMIT_MESSAGES = {MODEL: "Upload the LoRA", SPACE: "Upload the page"}
NEW_SPACE = frozenset({".gitattributes", "README.md"})  # the files of a Space that was just created
LONGEST_SHOWN = 200  # characters of a server's message
RepositoryInfo = ModelInfo | SpaceInfo


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """What a Space has besides its files."""

    hardware: str  # if it has to be created; a name of huggingface_hub's SpaceHardware
    own_file: str  # by which a Space that exists is known to have this page; another one is not overwritten
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What to do. Without a folder, the repository is created and the access to it is checked, or it is only read."""

    repository: str  # owner/name
    token: str
    is_private: bool  # if it has to be created
    folder: str | None  # is uploaded
    space: SpaceSettings | None = None  # the repository is a Space; else a model
    is_read_only: bool = False

    def encoded(self) -> bytes:
        """The request as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decoded(cls, text: str) -> Self:
        """The request from JSON."""
        fields: dict[str, Any] = json.loads(text)
        space = fields.pop("space")
        return cls(**fields, space=space and SpaceSettings(**space))

    @property
    def type(self) -> str:
        """The type of the repository."""
        return SPACE if self.space else MODEL


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of it; `error` completes a sentence that starts with the repository, in which {token} stands for what
    the user calls the token."""

    url: str = ""
    is_private: bool | None = None  # None if the server does not say
    base_models: tuple[str, ...] = ()  # by the model card, if the repository is only read
    files: tuple[str, ...] = ()  # names, if it is only read
    error: str = ""
    is_transient: bool = False  # the same may succeed if it is tried again

    @classmethod
    def decoded(cls, text: bytes) -> "Reply":
        """The reply from JSON. Raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            lists = {name: tuple(fields[name]) for name in ("base_models", "files")}
            return cls(**{**fields, **lists})
        except (KeyError, TypeError) as error:
            raise ValueError("no reply") from error


def answer(api: HfApi, request: Request) -> Reply:
    """Do what is requested. Errors are in the reply, without the token and without URLs, which may be signed."""
    try:
        if request.is_read_only:
            return _read(api, request)
        return _upload(api, request) if request.folder else _open(api, request)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        return _failure(error)


def _read(api: HfApi, request: Request) -> Reply:
    """Read what a model's repository is, and what its card names as its base."""
    found = api.model_info(request.repository)
    named = found.card_data.get("base_model") if found.card_data else None
    bases = named if isinstance(named, list) else [named]
    return Reply(
        url=f"{api.endpoint}/{request.repository}",
        is_private=found.private,
        base_models=tuple(base for base in bases if isinstance(base, str)),
        files=_names(found),
    )


def _open(api: HfApi, request: Request) -> Reply:
    """Create the repository unless it exists. A token that cannot write is refused before that."""
    user = api.whoami()
    if _role(user) == "read":
        return Reply(error="{token} has the role read: expected a token with write access" + _more(api))
    url = api.create_repo(
        request.repository,
        private=request.is_private,
        exist_ok=True,
        repo_type=request.type,
        space_sdk="gradio" if request.space else None,
        space_hardware=SpaceHardware(request.space.hardware) if request.space else None,
    )
    api.auth_check(request.repository, repo_type=request.type, write=True)
    found = _info(api, request)
    if request.space and found and _has_another_page(_names(found), request.space.own_file):
        return Reply(
            error="it is a Space with other files, which would be overwritten: expected the name of a new Space"
        )
    return Reply(url=str(url), is_private=found.private if found else None)


def _upload(api: HfApi, request: Request) -> Reply:
    assert request.folder is not None
    if request.space:  # before the files, which start it
        for key, value in request.space.variables.items():
            api.add_space_variable(request.repository, key, value)
        for key, value in request.space.secrets.items():
            api.add_space_secret(request.repository, key, value)
    api.upload_folder(
        repo_id=request.repository,
        repo_type=request.type,
        folder_path=Path(request.folder),
        commit_message=COMMIT_MESSAGES[request.type],
    )
    return Reply(url=f"{api.endpoint}/{'spaces/' if request.space else ''}{request.repository}")


def _role(user: object) -> str:
    """The role of the token: read, write or fineGrained; empty if the server does not say."""
    found: object = user
    for name in ("auth", "accessToken", "role"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _info(api: HfApi, request: Request) -> RepositoryInfo | None:
    """What a repository is, which may be older than this training; None if the server does not say."""
    with suppress(HTTPError, OSError, ValueError):
        return api.space_info(request.repository) if request.space else api.model_info(request.repository)
    return None


def _names(found: RepositoryInfo) -> tuple[str, ...]:
    return tuple(file.rfilename for file in found.siblings or ())


def _has_another_page(names: Collection[str], own_file: str) -> bool:
    """Whether a Space has more than Hugging Face puts into a new one, and not this page."""
    return own_file not in names and not NEW_SPACE.issuperset(names)


def _failure(error: Exception) -> Reply:
    """The reply for an error. huggingface_hub wraps that of a file's upload in a RuntimeError."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    if cause is not None:
        return _refusal(cause)
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return Reply(error=f"Hugging Face gave an unexpected response ({type(error).__name__})", is_transient=True)
    root = error.__cause__ or error
    return Reply(error=f"Hugging Face cannot be reached ({_line(root) or type(root).__name__})", is_transient=True)


def _refusal(error: HfHubHTTPError) -> Reply:
    """The reply for a response with an error status."""
    status = error.response.status_code
    said = f" ({_line(error.server_message)})" if error.server_message else ""
    if status == UNAUTHORIZED:
        return Reply(error=f"{{token}} is not accepted by Hugging Face{said}: expected a valid token with write access")
    if status == NOT_FOUND:
        return Reply(
            error="Hugging Face has no such repository, or {token} gives no access to it: expected one of yours"
        )
    if status == PAYMENT_REQUIRED:
        return Reply(
            error=f"Hugging Face asks for payment{said}: expected an account that has paid, or what is free, such as"
            " the hardware cpu-basic of a Space"
        )
    if status == FORBIDDEN:
        return Reply(
            error=f"{{token}} does not give write access to it{said}: expected a repository of the token's user, or of"
            " an organization in which the user may write"
        )
    is_transient = status in TRANSIENT or status >= FIRST_SERVER_ERROR
    return Reply(error=f"Hugging Face responded with status {status}{said}", is_transient=is_transient)


def _more(api: HfApi) -> str:
    return f"; make one at {api.endpoint}/settings/tokens"


def _line(text: object) -> str:
    """Text of somebody else on one line."""
    return " ".join(str(text).split())[:LONGEST_SHOWN].replace("{", "(").replace("}", ")")


def main() -> None:
    """Answer one request."""
    request = Request.decoded(sys.stdin.read())
    reply = answer(HfApi(token=request.token), request)
    sys.stdout.write(json.dumps(asdict(reply)))


if __name__ == "__main__":
    main()
