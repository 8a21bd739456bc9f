"""A repository on Hugging Face, of a model or a Space: created and checked first, and filled later."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lora.checks import check_text, short_repr
from lora.publishing.hub_process import Reply, Request, SpaceSettings

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "lora.publishing.hub_process"
ENDPOINT = "HF_ENDPOINT"  # as in huggingface_hub: another server than Hugging Face
WITH_XET = "huggingface.co"  # the only host that is known to have Xet; an upload by Xet to a server without it hangs
WITHOUT_XET = {"HF_HUB_DISABLE_XET": "1"}
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
SECONDS_BETWEEN_POLLS = 0.1
SECONDS_TO_OPEN = 60.0
# Of an upload, with all its retries: our choice. A LoRA of rank 16 has 172 MB, which takes six minutes at this rate.
SECONDS_TO_UPLOAD, SLOWEST_BYTES_PER_SECOND = 300.0, 500_000
SECONDS_BEFORE_RETRIES = (1.0, 4.0, 16.0)  # three retries; huggingface_hub itself retries most requests, but no commit

Interrupted = Callable[[], str | None]  # the reason to end at once, or None


@dataclass(frozen=True, slots=True)
class HubTarget:
    """Where a LoRA is uploaded to."""

    repository: str  # owner/name
    token: str = field(repr=False)
    is_private: bool  # if it has to be created
    named: str  # what the user calls the repository and the token, for errors
    token_named: str
    space: SpaceSettings | None = None  # it is a Space, else a model


@dataclass(frozen=True, slots=True)
class PublishedLora:
    """The repository of a LoRA that exists."""

    is_private: bool
    base_models: tuple[str, ...]  # owner/name, by its card
    files: tuple[str, ...]  # names


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an upload may take, and how long to wait before each retry; in seconds."""

    seconds: float
    before_retries: tuple[float, ...] = SECONDS_BEFORE_RETRIES

    @classmethod
    def for_folder(cls, folder: Path) -> "Patience":
        """The patience for all files in a folder."""
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return cls(SECONDS_TO_UPLOAD + size / SLOWEST_BYTES_PER_SECOND)


class UploadError(OSError):
    """An upload failed, or was interrupted. The message is a clause without the repository."""


def check_repository(name: str, value: object) -> str:
    """Return the name of a repository, or an empty one for None. Asks no server.

    Raises ValueError with one sentence unless it is owner/name, as Hugging Face allows it.
    """
    repository = check_text(name, "" if value is None else value, at_most=1000).strip()
    owner, slash, rest = repository.partition("/")
    expected = "expected owner/name on Hugging Face, such as me/my-lora, of letters, digits, '-', '_' and '.'"
    if not repository:
        return ""
    if not (owner and slash and rest) or not repository.isascii():
        raise ValueError(f"{name} is {short_repr(repository)}: {expected}")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{name} is {short_repr(repository)}: {expected}, at most 96 characters") from error
    return repository


def check_token(name: str, token: str) -> str:
    """Return a token unchanged. Raises ValueError if it cannot be one: libraries would quote it in their errors."""
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError(f"{name} has characters that no token has: expected hf_ with letters and digits after it")
    return token


def open_repository(target: HubTarget, *, seconds: float = SECONDS_TO_OPEN) -> str:
    """Create the repository unless it exists, check that the token can write to it, and return a line for the log.

    Raises ValueError with one sentence if it cannot be used, and OSError with one if Hugging Face cannot be reached or
    does not respond within these seconds.
    """
    request = Request(target.repository, target.token, target.is_private, None, target.space)
    return _opened_line(target, _answered(target, request, seconds))


def read_repository(target: HubTarget, *, seconds: float = SECONDS_TO_OPEN) -> PublishedLora:
    """What the repository of a LoRA is. Changes nothing, and raises what `open_repository` raises."""
    request = Request(target.repository, target.token, target.is_private, None, is_read_only=True)
    reply = _answered(target, request, seconds)
    return PublishedLora(bool(reply.is_private), reply.base_models, reply.files)


def _answered(target: HubTarget, request: Request, seconds: float) -> Reply:
    prefix = f"{target.named} is {target.repository!r}"
    try:
        reply = _ask(request, deadline=time.monotonic() + seconds, interrupted=lambda: None, environment={})
    except UploadError as error:
        raise OSError(f"{prefix}: {error}; try again later") from error
    if reply.error:
        failure = f"{prefix}: {reply.error.format(token=target.token_named)}"
        if reply.is_transient:
            raise OSError(f"{failure}; try again later")
        raise ValueError(failure)
    return reply


def upload(target: HubTarget, folder: Path, *, patience: Patience, interrupted: Interrupted) -> str:
    """Upload all files of a folder in one commit, and return the URL of the repository.

    Raises UploadError if that fails, also with retries, takes too long, or if there is a reason to end. The process
    that uploads is killed then, and if this function is left by any exception.
    """
    request = Request(target.repository, target.token, target.is_private, str(folder.resolve()), target.space)
    deadline = time.monotonic() + patience.seconds
    environment: Mapping[str, str] = {}
    for wait in (*patience.before_retries, None):
        reply = _ask(request, deadline=deadline, interrupted=interrupted, environment=environment)
        if not reply.error:
            return reply.url
        if not reply.is_transient or wait is None:
            break
        _sleep(wait, deadline, interrupted)
        environment = WITHOUT_XET  # which is what some networks block
    raise UploadError(reply.error.format(token=target.token_named))


def _opened_line(target: HubTarget, reply: Reply) -> str:
    line = f"the {'page' if target.space else 'LoRA'} will be uploaded to {reply.url}"
    if reply.is_private is None:
        return line
    kind = "private" if reply.is_private else "public"
    if reply.is_private == target.is_private:
        return f"{line}, which is {kind}"
    return f"{line}, which existed and is {kind}: that is not changed"


def _ask(request: Request, *, deadline: float, interrupted: Interrupted, environment: Mapping[str, str]) -> Reply:
    """Run the process that talks to Hugging Face, and kill it if it does not end in time."""
    with subprocess.Popen(
        [sys.executable, "-m", PROGRAM],
        cwd=ROOT,
        env={**os.environ, **QUIET, **_xet(), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # huggingface_hub logs URLs, which may be signed
        start_new_session=True,  # Ctrl-C is for the parent
    ) as process:
        try:
            return Reply.decoded(_output(process, request.encoded(), deadline, interrupted))
        except ValueError:
            return Reply(error=f"the process that uploads ended with exit code {process.wait()}")
        finally:
            process.kill()


def _output(process: "subprocess.Popen[bytes]", request: bytes, deadline: float, interrupted: Interrupted) -> bytes:
    given: bytes | None = request
    while True:
        try:
            return process.communicate(given, timeout=SECONDS_BETWEEN_POLLS)[0]
        except subprocess.TimeoutExpired:
            given = None  # `communicate` remembers what it has not written yet
        _raise_if_over(deadline, interrupted)


def _sleep(seconds: float, deadline: float, interrupted: Interrupted) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _raise_if_over(deadline, interrupted)
        time.sleep(min(SECONDS_BETWEEN_POLLS, seconds))


def _raise_if_over(deadline: float, interrupted: Interrupted) -> None:
    if reason := interrupted():
        raise UploadError(reason)
    if time.monotonic() > deadline:
        raise UploadError("Hugging Face took too long to respond")


def _xet() -> Mapping[str, str]:
    host = urlsplit(os.environ.get(ENDPOINT, "")).hostname
    return WITHOUT_XET if host not in (None, WITH_XET) else {}
