"""References to Hugging Face: pages, files, and the short form hf://. Knows no network."""

import re

from weights.grammar.pages import Page, checked_part
from weights.grammar.records import MAIN, HubLora

HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
SHORT = ("hf://", "hf:")
VIEWS = frozenset({"resolve", "blob", "tree", "raw"})
OTHER_KINDS = frozenset({"datasets", "spaces", "collections", "papers", "docs", "api"})
OWNER_AND_NAME = 2
# https://huggingface.co/docs/huggingface_hub/package_reference/utilities: what validate_repo_id lets pass
NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
EXPECTED = "expected huggingface.co/owner/name, with or without /resolve/revision/file.safetensors"


def read_hub_page(page: Page) -> HubLora:
    """The LoRA that a page of huggingface.co shows; raises ValueError with the end of a sentence."""
    if page.parts and page.parts[0] in OTHER_KINDS:
        raise ValueError(f"is no model on Hugging Face but one of its {page.parts[0]}: {EXPECTED}")
    repository, rest = _repository(page.parts[:2]), page.parts[2:]
    if not rest or rest[0] not in VIEWS:
        return HubLora(repository, MAIN, "/".join(rest))
    if len(rest) == 1:
        raise ValueError(f"names no revision after {rest[0]}: {EXPECTED}")
    return HubLora(repository, *_revision_and_path(rest[1:]))


def read_hub_short(reference: str) -> HubLora:
    """hf://owner/name[@revision][/file] and hf:owner/name, as huggingface_hub's file system writes them."""
    rest = next(reference[len(mark) :] for mark in SHORT if reference.lower().startswith(mark))
    parts = tuple(checked_part(part) for part in rest.split("/") if part)
    name, _, revision = parts[1].partition("@") if len(parts) > 1 else ("", "", "")
    return HubLora(_repository((*parts[:1], name)), *_revision_and_path((revision or MAIN, *parts[2:])))


def _revision_and_path(parts: tuple[str, ...]) -> tuple[str, str]:
    """refs/pr/1 and refs/convert/x are revisions whose names hold slashes."""
    length = 3 if parts[0] == "refs" else 1
    return "/".join(parts[:length]), "/".join(parts[length:])


def _repository(parts: tuple[str, ...]) -> str:
    if len(parts) != OWNER_AND_NAME or not all(NAME.fullmatch(part) for part in parts):
        raise ValueError(f"names no model on Hugging Face: {EXPECTED}, or hf://owner/name")
    return "/".join(parts)
