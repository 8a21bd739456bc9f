"""What a person gave as a LoRA, wherever it is, becomes its tensors. Knows no pipeline."""

import base64
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from weights.cache.store import Room, Store, default_folder
from weights.fetching import Fetcher
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
USER = re.compile(r"//[^/@]*@")


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that was read and checked."""

    digest: str  # sha256 of its file: the same LoRA has the same, wherever it came from
    tensors: dict[str, Tensor]


def read_lora(
    reference: str,
    *,
    named: str,
    tokens: Tokens = Tokens(),  # noqa: B008 - frozen
    network: Network = Network(),  # noqa: B008 - frozen
    store: Store | None = None,
) -> Lora:
    """Read a LoRA by any reference that weights.grammar knows; whether it is a tar is told by its content.

    `named` is the input that held the reference, for the errors; `tokens` open what is private; downloads are kept in
    `store`, by default in this machine's cache. Raises ValueError with one sentence, OSError with one if a download
    cannot be kept.
    """
    try:
        record = parse_reference(reference)
        if isinstance(record, Inline):
            return _lora(io.BytesIO(_decode(record.uri)))
        if isinstance(record, LocalFile):
            with _open(record.path) as file:
                return _lora(file)
        return _fetched(record, Fetcher(network, tokens, store or Store(default_folder(), Room())))
    except ValueError as error:
        raise ValueError(f"{named} {_short(reference)!r} {error}") from error
    except OSError as error:
        raise OSError(f"{named} {_short(reference)!r} cannot be read or kept: {_reason(error)}") from error


def _fetched(record: Remote, fetcher: Fetcher) -> Lora:
    """A LoRA from elsewhere; what turns out to be none is fetched anew the next time."""
    fetched = fetcher.fetch(record)
    try:
        with fetched.file as file:
            return _lora(file)
    except ValueError:
        fetcher.forget(fetched.key)
        raise


def _lora(file: BinaryIO) -> Lora:
    start = file.read(START)
    file.seek(0)
    content = lora_in_tar(file) if is_tar(start) else file.read()
    return Lora(hashlib.sha256(content).hexdigest(), parse_lora(content))


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
    text = USER.sub("//", text)
    text = re.sub(r"[?#].*", "?...", text, flags=re.DOTALL)
    return text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"
