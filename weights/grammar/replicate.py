"""References to models trained on Replicate: owner/name, a page, a version. Knows no network."""

import re

from weights.grammar.pages import Page
from weights.grammar.records import ReplicateLora, UnqualifiedLora

HOSTS = frozenset({"replicate.com", "www.replicate.com", "r8.im"})
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
VERSION = r"[A-Za-z0-9]{1,64}"
# owner/name, owner/name/<version>, owner/name/versions/<version>, owner/name:<version> (copied from Replicate's pages),
# and owner/name@sha256:<version> (the form of its registry)
MODEL = re.compile(
    rf"(?P<owner>{NAME})/(?P<name>{NAME})(?:(?:/|/versions/|:|@sha256:)(?P<version>{VERSION}))?(?:/api|/_weights)?/?"
)
NO_VERSIONS = frozenset({"api", "versions", "examples", "readme", "train", "_weights"})
EXPECTED = "expected replicate.com/owner/name, with or without /versions/<version>"


def read_model(reference: str) -> ReplicateLora | UnqualifiedLora | None:
    """Parse owner/name with or without a version; None for any other form."""
    found = MODEL.fullmatch(reference)
    if found is None:
        return None
    owner, name, version = found["owner"], found["name"], found["version"]
    return ReplicateLora(owner, name, version) if version else UnqualifiedLora(owner, name)


def read_replicate_page(page: Page) -> ReplicateLora:
    """Parse the URL of a page on replicate.com.

    Raises ValueError; the message completes a sentence that starts with the reference.
    """
    parts = page.parts[:-1] if len(page.parts) > 2 and page.parts[-1] in NO_VERSIONS else page.parts  # noqa: PLR2004
    found = read_model("/".join(parts))
    if found is None or found.owner in {"p", "docs", "explore", "account"}:
        raise ValueError(f"is not the page of a model on Replicate: {EXPECTED}")
    return found if isinstance(found, ReplicateLora) else ReplicateLora(found.owner, found.name)
