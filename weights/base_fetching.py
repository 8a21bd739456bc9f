"""Downloads a base from where it comes from into a folder, once: a start that finds it complete asks nobody."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import get_token

from weights.base_folder import Destination, locked
from weights.base_hub import fetch_from_hub
from weights.base_manifest import is_complete, write_manifest
from weights.base_tar import fetch_tar
from weights.grammar.base_source import BaseSource, HubBase
from weights.grammar.records import Link
from weights.layouts import BASE, Layout
from weights.network.network import Network, NetworkTimeouts, Tokens
from weights.network.url_policy import origin_of
from weights.sources.access import access_to

ENDPOINT = "HF_ENDPOINT"  # as in huggingface_hub: a mirror of Hugging Face
KEY_DIGITS = 16
# Gigabytes take long, and a connection may break often; what has arrived is kept
TIMEOUTS = NetworkTimeouts(total=24 * 3600, min_bytes_per_second=10_000, retry_delays=(1, 2, 4, 8, 16, 30, 30))
TIMEOUTS = replace(TIMEOUTS, max_total_delay=150)


def destination_of(
    source: BaseSource, folder: Path, log_line: Callable[[str], None], layout: Layout = BASE
) -> Destination:
    """Return how a base, or another model with this layout, is downloaded on this machine: from the Hub that
    HF_ENDPOINT names, with the token that huggingface_hub would use (HF_TOKEN, or that of `hf auth login`).

    Who sets up this machine names the server, so it may be one of a private network, unlike those of LoRAs. A server to
    which it redirects may not.
    """
    public = Network().hugging_face
    hub = os.environ.get(ENDPOINT, "").strip().rstrip("/") or public
    trusted = {hub} if hub != public else set()
    if not isinstance(source, HubBase):
        trusted.add(origin_of(source.url))
    network = Network(hugging_face=hub, trusted=frozenset(trusted), timeouts=TIMEOUTS)
    return Destination(folder, network, get_token() or "", log_line, layout)


def cache_folder(source: BaseSource) -> Path:
    """Return where this machine keeps a base that a setting names: in XDG_CACHE_HOME, by default ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flux-lora-bases"
    key = str(source) if isinstance(source, HubBase) else access_to(Link(source.url), Tokens()).key + source.sha256
    name = re.sub(r"[^\w.-]+", "-", source.name)
    return cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:KEY_DIGITS]}"


def ensure_base(source: BaseSource, destination: Destination) -> None:
    """Download a base unless it is complete. Raises the errors of `fetch_base`."""
    if not is_complete(destination.folder):
        fetch_base(source, destination, unless_complete=True)


def fetch_base(source: BaseSource, destination: Destination, *, unless_complete: bool = False) -> None:
    """Download what a folder lacks of a base, and verify what it has.

    A process that downloads the same base is waited for. Raises ValueError and OSError with one sentence that starts
    with the source.
    """
    folder = destination.folder
    with _naming(source, folder), locked(folder, destination.log_line):
        if unless_complete and is_complete(folder):
            return
        if isinstance(source, HubBase):
            manifest = fetch_from_hub(source, destination)
        else:
            manifest = fetch_tar(source, destination)
        try:
            destination.layout.check(folder)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"holds no {destination.layout.noun} that can be used: {error}") from error
        write_manifest(manifest, folder)
        destination.log_line(f"the {destination.layout.noun} {source.name} is complete in {folder}, and verified")


@contextmanager
def _naming(source: BaseSource, folder: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source} {error}") from error
    except OSError as error:
        found = f"cannot be kept in {folder}: {error.strerror}" if error.strerror else error
        raise OSError(f"{source} {found}") from error
