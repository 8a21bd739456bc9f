"""Download a file within limits of size and time, resume it after a lost connection, and never mix two versions.

Knows no cache: the caller says where to write.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from weights.network.client import HttpRequest, HttpResponse, send_request
from weights.network.failures import Patience, TransientFailure, retry
from weights.network.network import Network, NetworkTimeouts
from weights.network.statuses import check_status

MAX_BYTES = 4 * 2**30  # a rank 128 LoRA of every linear layer has 2.6 GB in fp32
CHUNK_BYTES = 2**20
RESERVED_BYTES = 64 * 2**20  # reserved at a time if the server does not send the length of the file
LONGEST_ETAG = 200
OK, PARTIAL, NOT_MODIFIED, OUT_OF_RANGE = 200, 206, 304, 416
RANGE = re.compile(r"bytes (?P<first>\d{1,19})-\d{1,19}/(?P<total>\d{1,19}|\*)", re.ASCII)
LENGTH = re.compile(r"\d{1,19}", re.ASCII)

MakeRoom = Callable[[int], None]  # called with a number of bytes before they are written; raises OSError


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download, with its digest if the source publishes one."""

    request: HttpRequest
    sha256: str = ""  # in lowercase hexadecimal
    config: HttpRequest | None = None  # of PEFT's settings beside it, if there are any
    note: str = ""  # what to log if it was chosen among several
    noun: str = "a LoRA"  # what is expected, for errors


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was downloaded completely."""

    sha256: str
    size: int  # bytes
    etag: str


@dataclass(slots=True)
class _Progress:
    """The part of a file that has been written so far."""

    file: BinaryIO
    known_etag: str  # of the version in the cache: the server does not send it again if it is unchanged
    network: Network
    patience: Patience
    started: float
    etag: str = ""
    size: int = 0
    total: int | None = None
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.etag, self.size, self.total, self.digest = "", 0, None, hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)


def download(
    remote_file: RemoteFile, into: Path, make_room: MakeRoom, network: Network, *, known_etag: str = ""
) -> Downloaded | None:
    """Download a file, or return None if the version whose ETag is `known_etag` is still the newest.

    Raises ValueError (also its subclass NotFound) with a message that completes a sentence that starts with the
    reference, and OSError if the disk is full.
    """
    with into.open("wb") as file:
        patience = Patience(network.timeouts)
        progress = _Progress(file, known_etag, network, patience, time.monotonic())
        is_new = retry(lambda attempt: _attempt(remote_file, progress, make_room, attempt), network.timeouts, patience)
        if not is_new:
            return None
        found = progress.digest.hexdigest()
        if remote_file.sha256 and found != remote_file.sha256:
            raise ValueError(
                f"arrived with the sha256 {found[:12]}..., but its source says {remote_file.sha256[:12]}..."
            )
        return Downloaded(found, progress.size, progress.etag)


def _attempt(remote_file: RemoteFile, progress: _Progress, make_room: MakeRoom, attempt: int) -> bool:
    """Return True after downloading a new version, False if the known one is the newest."""
    request = replace(remote_file.request, headers=_conditions(progress))
    with send_request(request, progress.patience.limited(progress.network), attempt=attempt) as response:
        accepted = frozenset({OK, PARTIAL, NOT_MODIFIED} if progress.known_etag else {OK, PARTIAL})
        if response.status == OUT_OF_RANGE and progress.size:
            progress.restart()
            raise TransientFailure(f"could not be resumed at {response.host}")
        check_status(response, accepted=accepted, token_given=bool(request.token), token_input=request.token_input)
        if response.status == NOT_MODIFIED:
            return False
        if response.status == OK and progress.known_etag and _etag(response) == progress.known_etag:
            return False  # the server ignores If-None-Match and sends the unchanged file
        _start(response, progress, remote_file)
        _receive(response, progress, make_room, remote_file.noun)
        return True


def _conditions(progress: _Progress) -> dict[str, str]:
    """Return headers that resume a file if the server confirms that it is the same version (RFC 9110, 13.1.5)."""
    if progress.size and progress.etag.startswith('"'):
        return {"Range": f"bytes={progress.size}-", "If-Range": progress.etag}
    return {"If-None-Match": progress.known_etag} if progress.known_etag else {}


def _start(response: HttpResponse, progress: _Progress, expected: RemoteFile) -> None:
    """Check the headers of a response, and discard what was written unless the response continues it."""
    if response.status == PARTIAL:
        _check_continues(response, progress)
        return
    progress.restart()
    progress.etag = _etag(response)
    if response.header("Content-Encoding").lower() not in {"", "identity"}:
        raise ValueError(f"was sent compressed by {response.host}: expected the uncompressed file")
    if response.header("Content-Type").lower().startswith("text/html"):
        login = f"; a login may need {expected.request.token_input}" if expected.request.token_input else ""
        raise ValueError(f"is not {expected.noun}: {response.host} sent a web page, perhaps a login or an error{login}")
    length = response.header("Content-Length")
    progress.total = int(length) if LENGTH.fullmatch(length) else None
    _check_size(progress.total or 0)


def _check_continues(response: HttpResponse, progress: _Progress) -> None:
    found = RANGE.fullmatch(response.header("Content-Range"))
    same = _etag(response) == progress.etag != ""
    if not (found and same and int(found["first"]) == progress.size and found["total"] in {"*", str(progress.total)}):
        progress.restart()
        raise TransientFailure(f"changed on {response.host} during the download")


def _etag(response: HttpResponse) -> str:
    """Return the ETag of a response, or an empty string if it cannot be sent back unchanged."""
    etag = response.header("ETag")
    return etag if etag.isascii() and etag.isprintable() and len(etag) <= LONGEST_ETAG else ""


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"has {size:,} bytes or more: expected at most {MAX_BYTES:,}")


def _receive(response: HttpResponse, progress: _Progress, make_room: MakeRoom, noun: str) -> None:
    timeouts = progress.network.timeouts
    window_start, size_at_start = time.monotonic(), progress.size
    reserved = progress.size  # bytes of the file for which there is room on the disk
    while chunk := response.read(CHUNK_BYTES):
        if progress.size + len(chunk) > reserved:
            more = max((progress.total or 0) - progress.size, 0) or RESERVED_BYTES
            make_room(more)
            reserved = progress.size + more
        progress.add(chunk)
        progress.patience.receive()
        _check_size(progress.size)
        now = time.monotonic()
        if now - progress.started > timeouts.total:
            raise ValueError(f"was not downloaded after {timeouts.total:g} seconds: {response.host} is too slow")
        if now - window_start > timeouts.speed_window:
            _check_speed(progress.size - size_at_start, now - window_start, timeouts, response.host)
            window_start, size_at_start = now, progress.size
    if progress.total is not None and progress.size != progress.total:
        raise TransientFailure(f"was cut off by {response.host} after {progress.size:,} of {progress.total:,} bytes")
    if not progress.size:
        raise ValueError(f"was sent as an empty file by {response.host}: expected {noun}")


def _check_speed(size: int, seconds: float, timeouts: NetworkTimeouts, host: str) -> None:
    if size < timeouts.min_bytes_per_second * seconds:
        raise ValueError(f"came too slowly: {host} sent {size:,} bytes in {seconds:.0f} seconds")
