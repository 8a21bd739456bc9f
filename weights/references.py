"""What a person gave as a LoRA, wherever it is, becomes its tensors. Knows no pipeline."""

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from weights.cache.store import Room, Store, default_folder
from weights.fetching import Fetched, Fetcher
from weights.grammar.grammar import parse_reference
from weights.grammar.records import Inline, LocalFile, Remote
from weights.lora_file import parse_lora
from weights.lora_tar import START, is_tar, lora_in_tar
from weights.network.network import Network, Tokens

MOST_BYTES = 4 * 2**30
MOST_INLINE = 100 * 2**20  # characters; Cog's own limit for a request
SHOWN = 80  # characters of a reference that an error repeats
EXPECTED_FILE = (
    "expected the path of a .safetensors or .tar file that is there, or another reference, as hf://owner/name"
)
# also one that holds what ends a host's name; what stands before the @ of hf:// is a repository, in its own grammar
USER = re.compile(r"(?<!^hf:)//.*@|//[^/@]*@", re.IGNORECASE | re.DOTALL)
NOBODY, INTERNET = Tokens(), Network()


class Lora(NamedTuple):
    """A LoRA that was read and checked."""

    digest: str  # sha256 of its file: the same LoRA has the same, wherever it came from
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A file that is there, open, and not looked at."""

    named: str  # by its input and its reference, for errors
    stamp: str  # files with equal ones are equal
    lora: Callable[[], Lora]

    def read(self) -> Lora:
        """Its LoRA, which may be in a tar. Raises ValueError and OSError with the end of a sentence, which `open_lora`
        makes whole.

        A download that was damaged in the cache is fetched anew at once, and one that is no LoRA the next time.
        """
        return self.lora()


@contextmanager
def open_lora(
    reference: str,
    *,
    named: str,
    tokens: Tokens = NOBODY,
    network: Network = INTERNET,
    store: Store | None = None,
) -> Iterator[LoraFile]:
    """Find a LoRA by any reference that weights.grammar knows.

    `named` is the input that held the reference, for the errors; `tokens` open what is private; downloads are kept in
    `store`, by default in this machine's cache. Raises ValueError with one sentence, OSError with one if a download
    cannot be kept. What is wrong with the LoRA may be found in the block: the end of a sentence is made whole.
    """
    name = f"{named} {_short(reference)!r}"
    with _explained(name):
        record = parse_reference(reference)
        if isinstance(record, Inline):
            found = _inline(record)
        elif isinstance(record, LocalFile):
            found = _local(record)
        else:
            found = _fetched(record, Fetcher(network, tokens, store or Store(default_folder(), Room())))
        with found.file:
            yield LoraFile(name, found.stamp, found.lora)


def read_lora(
    reference: str,
    *,
    named: str,
    tokens: Tokens = NOBODY,
    network: Network = INTERNET,
    store: Store | None = None,
) -> Lora:
    """Find and read a LoRA; takes and raises what `open_lora` does."""
    with open_lora(reference, named=named, tokens=tokens, network=network, store=store) as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class _Found:
    stamp: str
    file: BinaryIO
    lora: Callable[[], Lora]


@dataclass(frozen=True, slots=True)
class _Download:
    """A file out of the cache, and how it gets there."""

    fetcher: Fetcher
    record: Remote
    fetched: Fetched

    def lora(self) -> Lora:
        try:
            return self._read(self.fetched)
        except _DamagedError:
            again = self.fetcher.fetch(self.record)
        with again.file:
            if again.sha256 != self.fetched.sha256:
                raise ValueError("was damaged in the cache, and its source has another version now: ask for it again")
            return self._read(again)

    def _read(self, fetched: Fetched) -> Lora:
        try:
            return _lora(fetched.file, fetched.sha256)
        except ValueError:
            self.fetcher.forget(fetched.key)
            raise


class _DamagedError(ValueError):
    """A file is not the one that was written."""


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    except OSError as error:
        raise OSError(f"{name} cannot be read or kept: {_reason(error)}") from error


def _inline(record: Inline) -> _Found:
    content = _decode(record.uri)
    file = io.BytesIO(content)
    return _Found(hashlib.sha256(content).hexdigest(), file, lambda: _lora(file))


def _local(record: LocalFile) -> _Found:
    file = _open(record.path)
    status = os.fstat(file.fileno())
    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"  # the second, as `cp -p` and tar set the first
    return _Found(f"{status.st_dev}-{status.st_ino}-{times}-{status.st_size}", file, lambda: _lora(file))


def _fetched(record: Remote, fetcher: Fetcher) -> _Found:
    fetched = fetcher.fetch(record)
    return _Found(fetched.sha256, fetched.file, _Download(fetcher, record, fetched).lora)


def _lora(file: BinaryIO, sha256: str = "") -> Lora:
    """What a file holds; `sha256` is that of the file, where it is known."""
    in_tar = is_tar(file.read(START))
    file.seek(0)
    if in_tar and sha256:
        _check_whole(hashlib.file_digest(file, "sha256").hexdigest(), sha256)  # type: ignore[arg-type]
        file.seek(0)
    content = lora_in_tar(file) if in_tar else file.read()
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and not in_tar:
        _check_whole(digest, sha256)
    return Lora(digest, parse_lora(content))


def _check_whole(found: str, expected: str) -> None:
    if found != expected:
        raise _DamagedError("is damaged on the disk of the cache: its sha256 is another than when it was fetched")


def _open(path: Path) -> BinaryIO:
    if not _is_file(path):
        raise ValueError(f"is not there: {EXPECTED_FILE}")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"has {size:,} bytes: expected at most {MOST_BYTES:,}")
    return path.open("rb")


def _is_file(path: Path) -> bool:
    """Whether there is one; a name too long for any file is no error, but the name of nothing."""
    try:
        return path.is_file()
    except OSError:
        return False


def _decode(uri: str) -> bytes:
    header, comma, payload = uri.partition(",")
    if len(payload) > MOST_INLINE:
        raise ValueError(f"is a data URI of {len(payload):,} characters: expected at most {MOST_INLINE:,}")
    if not comma or not header.lower().endswith(";base64"):
        raise ValueError("is a data URI without base64: expected data:...;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise ValueError(f"is a damaged data URI ({error}): expected data:...;base64,...") from error


def _reason(error: OSError) -> str:
    """What the system says, without a path of this machine."""
    return error.strerror or str(error)


def _short(reference: str) -> str:
    """What tells a reference from others, without its secrets: no user and no query, which may be a signature.

    Of a data URI, which can be megabytes, the start; of a long path, the end.
    """
    text = reference.strip()
    if text[:5].lower() == "data:":
        return f"{text[:SHOWN]}..." if len(text) > SHOWN else text
    text = USER.sub("//...@", text)
    text = re.sub(r"[?#].*", "?...", text, flags=re.DOTALL)
    return text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"
