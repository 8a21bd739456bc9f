"""What a reference to a LoRA can be: one frozen record per kind, with its secrets apart from what it names."""

from dataclasses import dataclass, field
from pathlib import Path

MAIN = "main"


@dataclass(frozen=True, slots=True)
class HubLora:
    """A LoRA on Hugging Face."""

    repository: str  # owner/name
    revision: str = MAIN
    path: str = ""  # of the file; a folder or nothing: the only .safetensors file in it


@dataclass(frozen=True, slots=True)
class CivitaiLora:
    """A LoRA on Civitai; at least one of its two numbers is there."""

    model: int | None = None
    version: int | None = None  # the newest one for FLUX.1, if None; other numbers than those of models
    token: str = field(default="", repr=False)  # that stood in the URL


@dataclass(frozen=True, slots=True)
class ReplicateLora:
    """The weights of a model that was trained on Replicate."""

    owner: str
    name: str
    version: str = ""  # the newest one, if empty


@dataclass(frozen=True, slots=True)
class UnqualifiedLora:
    """owner/name and no host: Replicate's, as its own models read it, and Hugging Face's if Replicate has none."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Link:
    """A file anywhere, by its whole URL, signature included."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Inline:
    """A file inside the reference: a data URI."""

    uri: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine."""

    path: Path


Remote = HubLora | CivitaiLora | ReplicateLora | UnqualifiedLora | Link
Reference = Remote | Inline | LocalFile
