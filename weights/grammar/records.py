"""The records into which LoRA references are parsed, one per kind. Secrets have fields of their own."""

from dataclasses import dataclass, field
from pathlib import Path

MAIN = "main"


@dataclass(frozen=True, slots=True)
class HubLora:
    """A LoRA on Hugging Face."""

    repository: str  # owner/name
    revision: str = MAIN
    path: str = ""  # of a file, or of a folder (by default the root) with exactly one .safetensors file


@dataclass(frozen=True, slots=True)
class CivitaiLora:
    """A LoRA on Civitai; at least one of its two numbers is set."""

    model: int | None = None
    version: int | None = None  # None: the newest one for `base_model`; numbered independently of models
    token: str = field(default="", repr=False)  # from the URL
    base_model: str = ""  # that it must be made for, such as FLUX.2 [klein] 4B; empty: any FLUX


@dataclass(frozen=True, slots=True)
class ReplicateLora:
    """The weights of a model that was trained on Replicate."""

    owner: str
    name: str
    version: str = ""  # empty: the newest one


@dataclass(frozen=True, slots=True)
class UnqualifiedLora:
    """owner/name without a host: on Replicate, as Replicate's own models read it, else on Hugging Face."""

    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Link:
    """A file at any URL, which includes its signature."""

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
