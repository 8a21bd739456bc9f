"""What a person gave as a LoRA (a path or a data URI) becomes its tensors. Knows no pipeline."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from weights.lora_file import parse_lora
from weights.lora_tar import is_tar, lora_in_tar

MOST_BYTES = 4 * 2**30
SHOWN = 80  # characters of a reference that an error repeats


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that was read and checked."""

    digest: str  # sha256 of its file: the same LoRA has the same, wherever it came from
    tensors: dict[str, Tensor]


def read_lora(reference: str, *, named: str) -> Lora:
    """Read a local .safetensors or .tar, or a data URI with either; what it is is told by its content.

    `named` is the input that held the reference, for the errors. Raises ValueError with one sentence.
    """
    content = _content(reference.strip(), named)
    try:
        if is_tar(content):
            content = lora_in_tar(content)
        return Lora(hashlib.sha256(content).hexdigest(), parse_lora(content))
    except ValueError as error:
        raise ValueError(f"{named} {_short(reference)!r} {error}") from error


def _content(reference: str, named: str) -> bytes:
    if reference.startswith("data:"):
        return _decode(reference, named)
    path = Path(reference)
    if path.suffix not in {".safetensors", ".tar"} or not _is_file(path):
        expected = "expected the path of a .safetensors or .tar file that is there, or a data URI"
        raise ValueError(f"{named} is {_short(reference)!r}: {expected}")
    if path.stat().st_size > MOST_BYTES:
        size = f"{path.stat().st_size:,} bytes"
        raise ValueError(f"{named} {_short(reference)!r} has {size}: expected at most {MOST_BYTES:,}")
    return path.read_bytes()


def _is_file(path: Path) -> bool:
    """Whether there is one; a name too long for any file is no error, but the name of nothing."""
    try:
        return path.is_file()
    except OSError:
        return False


def _decode(uri: str, named: str) -> bytes:
    header, comma, payload = uri.partition(",")
    if len(payload) > MOST_BYTES:
        raise ValueError(f"{named} is a data URI of {len(payload):,} characters: expected at most {MOST_BYTES:,}")
    if not comma or not header.endswith(";base64"):
        raise ValueError(f"{named} is a data URI without base64: expected data:...;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise ValueError(f"{named} is a damaged data URI ({error}): expected data:...;base64,...") from error


def _short(reference: str) -> str:
    """What tells a reference from others: of a data URI, which can be megabytes, the start; of a long path, the end."""
    if len(reference) <= SHOWN:
        return reference
    return f"{reference[:SHOWN]}..." if reference.startswith("data:") else f"...{reference[-SHOWN:]}"
