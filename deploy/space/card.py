"""What a LoRA's model card says to somebody who wants to try it: the trigger word, and prompts. Loads no weights."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, hf_hub_url
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import build_hf_headers, get_session
from safetensors import SafetensorError, safe_open

from weights.grammar.grammar import parse_reference
from weights.grammar.records import HubLora, LocalFile, UnqualifiedLora

README = "README.md"
TRIGGER = "modelspec.trigger_phrase"  # in the metadata of a file, by Stability's ModelSpec 1.0.1
MOST_EXAMPLES, LONGEST_TEXT, LONGEST_CARD = 8, 500, 2**20  # characters; a card is somebody else's text
SECONDS = 10.0  # for each response; the page works without a card


@dataclass(frozen=True, slots=True)
class LoraCard:
    """The trigger word, which may be empty, and example prompts."""

    trigger_word: str = ""
    prompts: tuple[str, ...] = ()


def hub_repository(reference: str) -> str:
    """The repository on Hugging Face, owner/name, that a reference names; empty if it names none."""
    with suppress(ValueError):
        record = parse_reference(reference)
        if isinstance(record, HubLora):
            return record.repository
        if isinstance(record, UnqualifiedLora):
            return f"{record.owner}/{record.name}"
    return ""


def published_card(reference: str, *, token: str) -> LoraCard:
    """The card in the repository that a reference names; an empty one if there is none, or it cannot be read.

    Without a token, only public repositories are read, also on a machine with a login.
    """
    repository = hub_repository(reference)
    if not repository:
        return LoraCard()
    url = hf_hub_url(repository, README, endpoint=os.environ.get("HF_ENDPOINT") or None)
    headers = build_hf_headers(token=token or False)
    try:
        with get_session().stream("GET", url, headers=headers, timeout=SECONDS, follow_redirects=True) as response:
            response.raise_for_status()
            return parsed_card(_start(response.iter_bytes()).decode("utf-8", "replace"))
    except (HTTPError, OSError, ValueError):
        return LoraCard()


def _start(chunks: Iterable[bytes]) -> bytes:
    content = b""
    for chunk in chunks:
        content += chunk
        if len(content) > LONGEST_CARD:
            break
    return content


def local_card(reference: str) -> LoraCard:
    """The card of a file or folder on this machine: in its tar, in its folder, or beside it; an empty one if there is
    none. A LoRA without a card may have the trigger word in its metadata."""
    with suppress(ValueError, OSError, tarfile.TarError, SafetensorError):
        record = parse_reference(reference) if not Path(reference).is_dir() else LocalFile(Path(reference))
        if isinstance(record, LocalFile):
            card = parsed_card(_readme(record.path))
            return card if card.trigger_word else LoraCard(_trigger_in(record.path), card.prompts)
    return LoraCard()


def parsed_card(text: str) -> LoraCard:
    """What a card says, by the fields of the Hub; what cannot be read is left out."""
    try:
        data = ModelCard(text[:LONGEST_CARD], ignore_metadata_errors=True).data.to_dict()
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return LoraCard()
    trigger = data.get("instance_prompt")
    prompts = dict.fromkeys(_prompts(data.get("widget")))  # each once, in order
    return LoraCard(_line(trigger), tuple(prompts)[:MOST_EXAMPLES])


def _prompts(widget: object) -> Iterator[str]:
    for entry in widget if isinstance(widget, list) else ():
        text = _line(entry.get("text")) if isinstance(entry, dict) else ""
        if any(map(str.isalnum, text)):  # many cards have "-" for no prompt
            yield text


def _line(text: object) -> str:
    return " ".join(text.split())[:LONGEST_TEXT] if isinstance(text, str) else ""


def _readme(path: Path) -> str:
    if path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            names = (name for name in tar.getnames() if Path(name).name == README)
            found = next(iter(sorted(names, key=len)), None)
            file = tar.extractfile(found) if found else None
            return file.read(LONGEST_CARD).decode("utf-8", "replace") if file else ""
    readme = (path if path.is_dir() else path.parent) / README
    return readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""


def _trigger_in(path: Path) -> str:
    if path.suffix != ".safetensors" or not path.is_file():
        return ""
    with safe_open(path, "pt") as file:
        return _line((file.metadata() or {}).get(TRIGGER))
