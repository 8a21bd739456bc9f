"""References to Hugging Face: pages, files, and the short form hf://. Knows no network."""

import re

from weights.grammar.pages import Page, checked_part
from weights.grammar.records import MAIN, HubLora

HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
SHORT = ("hf://", "hf:")
VIEWS = frozenset({"resolve", "blob", "tree", "raw"})
OTHER_TYPES = frozenset({"datasets", "spaces", "collections", "papers", "docs", "api"})
OWNER_AND_NAME = 2
# What validate_repo_id accepts: https://huggingface.co/docs/huggingface_hub/package_reference/utilities
NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
EXPECTED = "expected huggingface.co/owner/name, with or without /resolve/revision/file.safetensors"


def read_hub_page(page: Page) -> HubLora:
    """Parse the URL of a page or a file on huggingface.co.

    Raises ValueError; the message completes a sentence that starts with the reference.
    """
    if page.parts and page.parts[0] in OTHER_TYPES:
        raise ValueError(f"is not a model on Hugging Face, but one of its {page.parts[0]}: {EXPECTED}")
    repository, rest = _repository(page.parts[:2]), page.parts[2:]
    if not rest or rest[0] not in VIEWS:
        return HubLora(repository, MAIN, "/".join(rest))
    if len(rest) == 1:
        raise ValueError(f"has no revision after {rest[0]}: {EXPECTED}")
    return HubLora(repository, *_revision_and_path(rest[1:]))


def read_hub_short(reference: str) -> HubLora:
    """Parse hf://owner/name[@revision][/file] and hf:owner/name, the syntax of huggingface_hub's file system.

    Raises ValueError; the message completes a sentence that starts with the reference.
    """
    rest = next(reference[len(prefix) :] for prefix in SHORT if reference.lower().startswith(prefix))
    parts = tuple(checked_part(part) for part in rest.split("/") if part)
    name, _, revision = parts[1].partition("@") if len(parts) > 1 else ("", "", "")
    return HubLora(_repository((*parts[:1], name)), *_revision_and_path((revision or MAIN, *parts[2:])))


def _revision_and_path(parts: tuple[str, ...]) -> tuple[str, str]:
    """Split the parts after the repository. refs/pr/1 and refs/convert/x are revisions whose names contain slashes."""
    length = 3 if parts[0] == "refs" else 1
    return "/".join(parts[:length]), "/".join(parts[length:])


def _repository(parts: tuple[str, ...]) -> str:
    if len(parts) != OWNER_AND_NAME or not all(NAME.fullmatch(part) for part in parts):
        raise ValueError(f"is not a model on Hugging Face: {EXPECTED}, or hf://owner/name")
    return "/".join(parts)
