"""A file from another machine: within limits of size and time, resumed where it stopped, never made of two versions.

Knows no cache: it is told where to write.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from weights.network.client import Answer, Question, ask
from weights.network.failures import TransientFailure, retry
from weights.network.network import Network, NetworkTimeouts
from weights.network.statuses import check_status

MOST_BYTES = 4 * 2**30  # rank 128 in fp32 on every linear layer has 2.6 GB
PIECE = 2**20
BLOCK = 64 * 2**20  # bytes that room is made for where nobody said how many come
LONGEST_ETAG = 200
OK, PARTIAL, NOT_MODIFIED, OUT_OF_RANGE = 200, 206, 304, 416
RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<whole>\d{1,19}|\*)", re.ASCII)
LENGTH = re.compile(r"\d{1,19}", re.ASCII)

MakeRoom = Callable[[int], None]  # called with the bytes that are about to be written; raises OSError


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download, and what its source says of it."""

    question: Question
    sha256: str = ""  # in small hexadecimal letters


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that is there, whole."""

    sha256: str
    size: int  # bytes
    etag: str


@dataclass(slots=True)
class _Progress:
    """What stands in the file so far."""

    file: BinaryIO
    known: str  # the ETag of the version that is there already: an unchanged file is not sent again
    network: Network
    started: float
    etag: str = ""
    size: int = 0
    whole: int | None = None
    hashed: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.etag, self.size, self.whole, self.hashed = "", 0, None, hashlib.sha256()

    def add(self, piece: bytes) -> None:
        self.file.write(piece)
        self.hashed.update(piece)
        self.size += len(piece)


def download(
    wanted: Wanted, into: Path, make_room: MakeRoom, network: Network, *, known: str = ""
) -> Downloaded | None:
    """Write a file, or return None if the one whose ETag is `known` is still the newest.

    Raises ValueError with the end of a sentence, NotFound among them, and OSError for a disk that is full.
    """
    with into.open("wb") as file:
        progress = _Progress(file, known, network, time.monotonic())
        fresh = retry(lambda attempt: _attempt(wanted, progress, make_room, attempt), network.patience)
        if not fresh:
            return None
        found = progress.hashed.hexdigest()
        if wanted.sha256 and found != wanted.sha256:
            raise ValueError(f"arrived with the sha256 {found[:12]}...: its source says {wanted.sha256[:12]}...")
        return Downloaded(found, progress.size, progress.etag)


def _attempt(wanted: Wanted, progress: _Progress, make_room: MakeRoom, attempt: int) -> bool:
    """Whether a new file is whole; False if the known one is the newest."""
    question = Question(wanted.question.url, _conditions(progress), wanted.question.token)
    with ask(question, progress.network, attempt=attempt) as answer:
        fine = frozenset({OK, PARTIAL, NOT_MODIFIED} if progress.known else {OK, PARTIAL})
        if answer.status == OUT_OF_RANGE and progress.size:
            progress.restart()
            raise TransientFailure(f"could not be resumed at {answer.host}")
        check_status(answer, fine=fine, token_given=bool(question.token))
        if answer.status == NOT_MODIFIED:
            return False
        if answer.status == OK and progress.known and _etag(answer) == progress.known:
            return False  # sent all the same, by a server that does not know If-None-Match
        _begin(answer, progress)
        _receive(answer, progress, make_room)
        return True


def _conditions(progress: _Progress) -> dict[str, str]:
    """Go on where the last attempt stopped, if the server can tell that it is the same file (RFC 9110, 13.1.5)."""
    if progress.size and progress.etag.startswith('"'):
        return {"Range": f"bytes={progress.size}-", "If-Range": progress.etag}
    return {"If-None-Match": progress.known} if progress.known else {}


def _begin(answer: Answer, progress: _Progress) -> None:
    """Check the head of an answer, and start from nothing unless it goes on with the same file."""
    if answer.status == PARTIAL:
        _check_continues(answer, progress)
        return
    progress.restart()
    progress.etag = _etag(answer)
    if answer.header("Content-Encoding").lower() not in {"", "identity"}:
        raise ValueError(f"was sent compressed by {answer.host}: expected the file as it is")
    if answer.header("Content-Type").lower().startswith("text/html"):
        raise ValueError(f"is no LoRA: {answer.host} sent a web page, as for a login or a file that is not there")
    length = answer.header("Content-Length")
    progress.whole = int(length) if LENGTH.fullmatch(length) else None
    _check_size(progress.whole or 0)


def _check_continues(answer: Answer, progress: _Progress) -> None:
    found = RANGE.fullmatch(answer.header("Content-Range"))
    same = _etag(answer) == progress.etag != ""
    if not (found and same and int(found["first"]) == progress.size and found["whole"] in {"*", str(progress.whole)}):
        progress.restart()
        raise TransientFailure(f"changed at {answer.host} while it was fetched")


def _etag(answer: Answer) -> str:
    """The name of a version, if it can be sent back as it is."""
    etag = answer.header("ETag")
    return etag if etag.isascii() and etag.isprintable() and len(etag) <= LONGEST_ETAG else ""


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"has {size:,} bytes or more: expected at most {MOST_BYTES:,}")


def _receive(answer: Answer, progress: _Progress, make_room: MakeRoom) -> None:
    patience = progress.network.patience
    mark, marked = time.monotonic(), progress.size
    room = progress.size  # how many bytes have it
    while piece := answer.piece(PIECE):
        if progress.size + len(piece) > room:
            more = max((progress.whole or 0) - progress.size, 0) or BLOCK
            make_room(more)
            room = progress.size + more
        progress.add(piece)
        _check_size(progress.size)
        now = time.monotonic()
        if now - progress.started > patience.whole:
            raise ValueError(f"was not there after {patience.whole:g} seconds: {answer.host} is too slow")
        if now - mark > patience.window:
            _check_speed(progress.size - marked, now - mark, patience, answer.host)
            mark, marked = now, progress.size
    if progress.whole is not None and progress.size != progress.whole:
        raise TransientFailure(f"was cut off by {answer.host} after {progress.size:,} of {progress.whole:,} bytes")
    if not progress.size:
        raise ValueError(f"was sent as an empty file by {answer.host}: expected a LoRA")


def _check_speed(size: int, seconds: float, patience: NetworkTimeouts, host: str) -> None:
    if size < patience.min_bytes_per_second * seconds:
        raise ValueError(f"came too slowly: {host} sent {size:,} bytes in {seconds:.0f} seconds")
