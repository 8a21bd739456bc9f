"""Splits a URL into the parts that the grammar reads. Knows no site."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

LONGEST_PART = 255


@dataclass(frozen=True, slots=True)
class Page:
    """The parts of a URL: its host in lowercase, its path in decoded parts, its query."""

    host: str
    parts: tuple[str, ...]
    query: Mapping[str, str]


def read_page(url: str) -> Page:
    """Split a URL that has a scheme.

    Raises ValueError for what is not a URL, and for a path with `..` or invisible characters. The message completes a
    sentence that starts with the reference.
    """
    try:
        split = urlsplit(url)
        host = split.hostname or ""
    except ValueError as error:
        raise ValueError("is not a valid URL: expected https://host/path") from error
    if "@" in split.netloc:
        raise ValueError(
            "has a user in its URL: expected https://host/path; pass tokens in hf_api_token or civitai_api_token"
        )
    parts = tuple(checked_part(unquote(part)) for part in split.path.split("/") if part)
    return Page(host.lower(), parts, dict(parse_qsl(split.query)))


def checked_part(part: str) -> str:
    """Return a part of a path if it can be safely put into another URL.

    Raises ValueError; the message completes a sentence that starts with the reference.
    """
    if part in {".", ".."} or "\\" in part or not part.isprintable() or len(part) > LONGEST_PART:
        raise ValueError("has a path with dots alone, a backslash or invisible characters: expected plain names")
    if any(name in {".", ".."} for name in part.split("/")):
        raise ValueError("has a path with ..: expected plain names")
    return part
