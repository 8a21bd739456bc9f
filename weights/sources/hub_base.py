"""List the files of a base on Hugging Face at one commit: sizes, sha256, licence and gate. Downloads nothing.

The API is documented at https://huggingface.co/docs/hub/api.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from weights.catalogue import published_in
from weights.grammar.base_source import HubBase
from weights.layouts import Layout
from weights.network.client import HttpRequest
from weights.network.failures import AccessDenied, NotFound
from weights.network.json_response import fetch_json
from weights.network.network import Network
from weights.printed import quoted, size_text

MAX_FILES = 500
MAX_BYTES = 100 * 2**30  # FLUX.1-dev has 34 GB; 68 GB in fp32


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository."""

    path: str
    size: int  # bytes
    sha256: str  # empty for small files, which are not in LFS
    request: HttpRequest


@dataclass(frozen=True, slots=True)
class HubListing:
    """The files of a base at a commit."""

    repository: str
    commit: str
    licence: str
    is_gated: bool
    files: tuple[HubFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    def line(self) -> str:
        """Return what a person should know before a download."""
        gate = f"; gated: it must be accepted at huggingface.co/{self.repository}" if self.is_gated else ""
        size = f"{size_text(self.bytes)} in {len(self.files)} files"
        return f"{self.repository} at commit {self.commit[:12]}: {size}, licence {self.licence}{gate}"


def list_base(source: HubBase, token: str, network: Network, layout: Layout) -> HubListing:
    """List the files that a base or a captioner consists of, as its layout says.

    Raises ValueError if access is denied or the repository holds no such model, NotFound if there is no such repository
    or revision. The messages complete a sentence that starts with the reference.
    """
    repository, revision = quote(source.repository), quote(source.revision, safe="")
    url = f"{network.hugging_face}/api/models/{repository}/revision/{revision}?blobs=true"
    try:
        found = fetch_json(HttpRequest(url, token=token), network)
    except NotFound as error:
        model = f"{source.repository} with the revision {source.revision}"
        raise NotFound(f"was not found: Hugging Face has no {model}, or it is private and needs HF_TOKEN") from error
    except AccessDenied as error:
        raise AccessDenied(f"{error}; {how_to_get_access(source.repository)}") from error
    commit = str(found.get("sha") or source.revision)
    resolve = f"{network.hugging_face}/{repository}/resolve/{quote(commit, safe='')}"
    files = tuple(_file(entry, resolve, token) for entry in _siblings(found) if layout.is_file(_name(entry)))
    _check(files, found, layout)
    return HubListing(source.repository, commit, _licence(found), found.get("gated") not in {None, False}, files)


def how_to_get_access(repository: str) -> str:
    """Return what a person must do to download a repository to which access was denied: a gated or private one, or an
    open one, for which a server that refuses a token sends nothing either."""
    known = published_in(repository)
    if known and not known.is_gated:
        return f"{repository} needs no token: unset HF_TOKEN and log out with `hf auth logout`, or renew the token"
    accept = f"accept the licence at huggingface.co/{repository} with your account"
    return f"{accept}, and give a token of it with read access in HF_TOKEN, or log in with `hf auth login`"


def _siblings(found: dict[str, Any]) -> list[dict[str, Any]]:
    siblings = found.get("siblings")
    return [entry for entry in siblings if isinstance(entry, dict)] if isinstance(siblings, list) else []


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("rfilename"))


def _file(entry: dict[str, Any], resolve: str, token: str) -> HubFile:
    lfs = _dict(entry.get("lfs"))
    size, sha256 = entry.get("size", lfs.get("size")), str(lfs.get("sha256") or "").lower()
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"has no size for {quoted(_name(entry))} on Hugging Face: expected a number of bytes")
    return HubFile(_name(entry), size, sha256, HttpRequest(f"{resolve}/{quote(_name(entry))}", token=token))


def _check(files: tuple[HubFile, ...], found: dict[str, Any], layout: Layout) -> None:
    if layout.index not in {file.path for file in files}:
        names = ", ".join(quoted(_name(entry)) for entry in _siblings(found)[:5]) or "nothing"
        raise ValueError(f"has no {layout.index} (its first files: {names}): expected {layout.expected}")
    size = sum(file.size for file in files)
    if size > MAX_BYTES or len(files) > MAX_FILES:
        found_size = f"{size:,} bytes in {len(files):,} files"
        raise ValueError(f"has {found_size}: expected at most {MAX_BYTES:,} bytes in {MAX_FILES} files")


def _dict(found: object) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _licence(found: dict[str, Any]) -> str:
    card = _dict(found.get("cardData"))
    name = str(card.get("license_name") or card.get("license") or "unknown")[:80]
    return "".join(character for character in name if character.isprintable())
