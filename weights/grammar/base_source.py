"""Where a base model comes from: parses FLUX_BASE_URL and what `script/download` is given. Sends no request."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from weights.grammar import hub
from weights.grammar.pages import read_page

DIGEST = re.compile(r"sha256[=:](?P<sha256>[0-9a-f]{64})", re.IGNORECASE)
TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
EXPECTED = "expected hf://owner/name[@revision], or https://host/path.tar of a folder in diffusers layout"


@dataclass(frozen=True, slots=True)
class HubBase:
    """A base on Hugging Face."""

    repository: str  # owner/name
    revision: str

    @property
    def name(self) -> str:
        """What the base is called: the repository."""
        return self.repository

    def __str__(self) -> str:
        """Return the form in which a person writes it."""
        return f"hf://{self.repository}@{self.revision}"


@dataclass(frozen=True, slots=True)
class TarBase:
    """A base in a tar at a URL, which includes its signature."""

    url: str = field(repr=False)
    sha256: str  # of the whole tar, in lowercase hexadecimal; empty if the reference has none

    @property
    def name(self) -> str:
        """What the base is called: the name of the file without its suffix."""
        return TAR_SUFFIX.sub("", PurePosixPath(unquote(urlsplit(self.url).path)).name) or "tar"

    def __str__(self) -> str:
        """Return the URL without secrets: its query, which may be a signature."""
        split = urlsplit(self.url)
        return urlunsplit((split.scheme, split.netloc, split.path, "", ""))


BaseSource = HubBase | TarBase


def parse_base_source(text: str) -> BaseSource:
    """Parse the source of a base.

    Raises ValueError; the message completes a sentence that starts with the name of the setting.
    """
    if not text.isprintable():
        raise ValueError(f"contains invisible characters: {EXPECTED}")
    if text.lower().startswith(hub.SHORT):
        found = hub.read_hub_short(text)
        return _whole_repository(found.repository, found.revision, found.path)
    if not text.lower().startswith("https://"):
        raise ValueError(f"is neither a repository on Hugging Face nor an https URL: {EXPECTED}")
    page = read_page(text)
    if page.host in hub.HOSTS and not TAR_SUFFIX.search(urlsplit(text).path):
        found = hub.read_hub_page(page)
        return _whole_repository(found.repository, found.revision, found.path)
    return _tar(text)


def is_hub_name(text: str) -> bool:
    """Whether a text has the form owner/name."""
    parts = text.split("/")
    return len(parts) == hub.OWNER_AND_NAME and all(hub.NAME.fullmatch(part) for part in parts)


def _whole_repository(repository: str, revision: str, path: str) -> HubBase:
    if path:
        raise ValueError(f"names a part of the repository {repository}: expected all of it, hf://{repository}")
    return HubBase(repository, revision)


def _tar(url: str) -> TarBase:
    """Split a URL from its fragment, which may be #sha256=..., as in requirements of pip."""
    url, _, fragment = url.partition("#")
    digest = DIGEST.fullmatch(fragment)
    if fragment and digest is None:
        raise ValueError("has an unknown part after #: expected none, or sha256= and 64 hexadecimal digits")
    return TarBase(url, digest["sha256"].lower() if digest else "")
