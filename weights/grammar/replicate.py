"""References to models trained on Replicate: owner/name, its page, a version of it. Knows no network."""

import re

from weights.grammar.pages import Page
from weights.grammar.records import ReplicateLora, UnqualifiedLora

HOSTS = frozenset({"replicate.com", "www.replicate.com", "r8.im"})
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
VERSION = r"[A-Za-z0-9]{1,64}"
# owner/name, owner/name/<version>, owner/name/versions/<version>, owner/name:<version> as Replicate's pages copy it,
# and owner/name@sha256:<version> as its registry writes it
MODEL = re.compile(
    rf"(?P<owner>{NAME})/(?P<name>{NAME})(?:(?:/|/versions/|:|@sha256:)(?P<version>{VERSION}))?(?:/api|/_weights)?/?"
)
NO_VERSIONS = frozenset({"api", "versions", "examples", "readme", "train", "_weights"})
EXPECTED = "expected replicate.com/owner/name, with or without /versions/<version>"


def read_model(reference: str) -> ReplicateLora | UnqualifiedLora | None:
    """What owner/name names, alone or with a version; None for what has another form."""
    found = MODEL.fullmatch(reference)
    if found is None:
        return None
    owner, name, version = found["owner"], found["name"], found["version"]
    return ReplicateLora(owner, name, version) if version else UnqualifiedLora(owner, name)


def read_replicate_page(page: Page) -> ReplicateLora:
    """The model that a page of replicate.com shows; raises ValueError with the end of a sentence."""
    parts = page.parts[:-1] if len(page.parts) > 2 and page.parts[-1] in NO_VERSIONS else page.parts  # noqa: PLR2004
    found = read_model("/".join(parts))
    if found is None or found.owner in {"p", "docs", "explore", "account"}:
        raise ValueError(f"is no page of a model on Replicate: {EXPECTED}")
    return found if isinstance(found, ReplicateLora) else ReplicateLora(found.owner, found.name)
