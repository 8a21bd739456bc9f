"""Reads the LoRA that a user's reference names, from any source. Knows no pipeline."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from weights.cache.store import CacheLimits, Store, default_folder
from weights.data_uri import decode_data_uri, is_data_uri
from weights.fetching import Fetched, Fetcher
from weights.grammar.grammar import parse_reference
from weights.grammar.records import CivitaiLora, Inline, LocalFile, Remote
from weights.local_files import ReadableFolders
from weights.local_folder import lora_in_folder, names_folder, read_config_beside
from weights.lora_file import parse_lora
from weights.lora_tar import START_BYTES, is_tar, lora_in_tar
from weights.network.network import Network, Tokens

MAX_BYTES = 4 * 2**30
SHOWN = 80  # characters of a reference in an error
EXPECTED_FILE = "expected the path of an existing .safetensors or .tar file, or another reference, as hf://owner/name"
# The user in a URL, even one with a / ? or #. The text before the @ of hf:// is a repository, not a user.
USER = re.compile(r"(?<!^hf:)//.*@|//[^/@]*@", re.IGNORECASE | re.DOTALL)
NO_TOKENS, INTERNET = Tokens(), Network()


class Lora(NamedTuple):
    """A LoRA that was read and checked."""

    digest: str  # sha256 of its file and of the settings that it was read with; the same from any source
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]  # what to log about how it was read; each completes a sentence like an error


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A file that is open and has not been read."""

    named: str  # the input and the reference, for errors
    cache_key: str  # equal keys mean equal files
    load: Callable[[], Lora]

    def read(self) -> Lora:
        """Return its LoRA, which may be in a tar.

        A download that was damaged in the cache is downloaded again at once; one that is not a LoRA is removed from the
        cache. Raises ValueError and OSError with the end of a sentence that `open_lora` completes.
        """
        return self.load()


@contextmanager
def open_lora(
    reference: str,
    *,
    named: str,
    tokens: Tokens = NO_TOKENS,
    network: Network = INTERNET,
    store: Store | None = None,
    readable: ReadableFolders | None = None,
    base_model: str = "",
) -> Iterator[LoraFile]:
    """Open the file of a LoRA by any reference that weights.grammar knows, or by the absolute path of its folder.

    `named` is the input that contains the reference, for errors; `tokens` give access to private LoRAs; downloads are
    kept in `store`, by default this machine's cache; a file of this machine must be `readable`, by default what the
    deployment allows; `base_model` is the one that it must be made for, if its host says that: FLUX.2 [klein] 4B.
    Raises ValueError, and OSError if a download cannot be written, each with one sentence. `named` and the reference
    are also put before the message of a ValueError or OSError of the block.
    """
    name = f"{named} {_redacted(reference)!r}"
    with _naming_reference(name):
        path, readable = reference.strip(), readable or ReadableFolders.of_deployment()
        # a folder that may not be read is no reference at all, so that nobody learns whether it exists
        is_folder = Path(path).is_absolute() and readable.contain(Path(path)) and names_folder(path)
        record = LocalFile(Path(path)) if is_folder else parse_reference(reference)
        if isinstance(record, CivitaiLora):
            record = replace(record, base_model=base_model)
        if isinstance(record, Inline):
            opened = _open_inline(record)
        elif isinstance(record, LocalFile):
            opened = _open_local(record, readable)
        else:
            opened = _open_remote(record, Fetcher(network, tokens, store or Store(default_folder(), CacheLimits())))
        with opened.file:
            yield LoraFile(name, opened.cache_key, opened.load)


def read_lora(
    reference: str,
    *,
    named: str,
    tokens: Tokens = NO_TOKENS,
    network: Network = INTERNET,
    store: Store | None = None,
    readable: ReadableFolders | None = None,
    base_model: str = "",
) -> Lora:
    """Open and read a LoRA. Takes the arguments and raises the errors of `open_lora`."""
    with open_lora(
        reference,
        named=named,
        tokens=tokens,
        network=network,
        store=store,
        readable=readable,
        base_model=base_model,
    ) as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class _Beside:
    """What was found beside the file of a LoRA."""

    config: str  # text of PEFT's adapter_config.json; may be empty
    note: str  # what to log if the file was chosen among several; may be empty


NOTHING_BESIDE = _Beside("", "")


@dataclass(frozen=True, slots=True)
class _OpenLora:
    cache_key: str
    file: BinaryIO
    load: Callable[[], Lora]


@dataclass(frozen=True, slots=True)
class _Download:
    """A file from the cache, with what is needed to download it again."""

    fetcher: Fetcher
    record: Remote
    fetched: Fetched

    def load(self) -> Lora:
        try:
            return self._read(self.fetched)
        except _DamagedError:
            new = self.fetcher.fetch(self.record)
        with new.file:
            if new.sha256 != self.fetched.sha256:
                raise ValueError("was damaged in the cache, and its source has another version now: repeat the request")
            return self._read(new)

    def _read(self, fetched: Fetched) -> Lora:
        try:
            return _read_file(fetched.file, _Beside(fetched.config, fetched.note), fetched.sha256)
        except ValueError:
            self.fetcher.remove(fetched.key)
            raise


class _DamagedError(ValueError):
    """The content of a file in the cache has changed."""


@contextmanager
def _naming_reference(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    except OSError as error:
        raise OSError(f"{name} cannot be read or cached: {_system_message(error)}") from error


def _open_inline(record: Inline) -> _OpenLora:
    content = decode_data_uri(record.uri)
    file = io.BytesIO(content)
    return _OpenLora(hashlib.sha256(content).hexdigest(), file, lambda: _read_file(file))


def _open_local(record: LocalFile, readable: ReadableFolders) -> _OpenLora:
    _refuse_unreadable(record.path, readable)
    path, note = lora_in_folder(record.path)
    _refuse_unreadable(path, readable)  # in the folder, it may be a link that leads elsewhere
    file = _open_path(path)
    status = os.fstat(file.fileno())
    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"  # ctime too, because `cp -p` and tar set the mtime
    config = read_config_beside(path, readable)
    key = f"{status.st_dev}-{status.st_ino}-{times}-{status.st_size}{_key_of(config)}"
    return _OpenLora(key, file, lambda: _read_file(file, _Beside(config, note)))


def _refuse_unreadable(path: Path, readable: ReadableFolders) -> None:
    if not readable.contain(path):
        raise ValueError(
            f"is outside of the folders that requests may read: expected {readable.expected}; or hf://owner/name"
        )


def _open_remote(record: Remote, fetcher: Fetcher) -> _OpenLora:
    fetched = fetcher.fetch(record)
    key = f"{fetched.sha256}{_key_of(fetched.config)}"
    return _OpenLora(key, fetched.file, _Download(fetcher, record, fetched).load)


def _read_file(file: BinaryIO, beside: _Beside = NOTHING_BESIDE, sha256: str = "") -> Lora:
    """Read a LoRA from a file. `sha256` is the expected digest of the file, or empty if it is not known."""
    in_tar = is_tar(file.read(START_BYTES))
    file.seek(0)
    if in_tar:
        if sha256:
            _check_digest(hashlib.file_digest(file, "sha256").hexdigest(), sha256)  # type: ignore[arg-type]
        member = lora_in_tar(file)
        content, beside = member.content, _Beside(member.config, member.note)
    else:
        content = file.read()
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and not in_tar:
        _check_digest(digest, sha256)
    parsed = parse_lora(content, beside.config)
    if parsed.uses_config:
        digest = hashlib.sha256(f"{digest}{_key_of(beside.config)}".encode()).hexdigest()
    return Lora(digest, parsed.tensors, (*([beside.note] if beside.note else []), *parsed.notes))


def _key_of(config: str) -> str:
    """The part of a cache key for settings; empty if there are none."""
    return f"-{hashlib.sha256(config.encode()).hexdigest()}" if config else ""


def _check_digest(found: str, expected: str) -> None:
    if found != expected:
        raise _DamagedError("is damaged in the cache: its sha256 has changed since the download")


def _open_path(path: Path) -> BinaryIO:
    if not _is_file(path):
        raise ValueError(f"does not exist: {EXPECTED_FILE}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"has {size:,} bytes: expected at most {MAX_BYTES:,}")
    return path.open("rb")


def _is_file(path: Path) -> bool:
    """Whether a file exists. A path that is too long for the file system counts as missing."""
    try:
        return path.is_file()
    except OSError:
        return False


def _system_message(error: OSError) -> str:
    """Return the message of the operating system without a path of this machine."""
    return error.strerror or str(error)


def _redacted(reference: str) -> str:
    """Return a short form of a reference without secrets: no user, and no query, which may be a signature.

    Keeps the start of a data URI, which can have megabytes, and the end of a long path.
    """
    text = reference.strip()
    if is_data_uri(text):
        return f"{text[:SHOWN]}..." if len(text) > SHOWN else text
    text = USER.sub("//...@", text)
    text = re.sub(r"[?#].*", "?...", text, flags=re.DOTALL)
    return text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"
