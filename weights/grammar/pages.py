"""A URL, with or without its scheme, as the parts that the grammar reads. Knows no site."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

LONGEST_PART = 255


@dataclass(frozen=True, slots=True)
class Page:
    """Where a URL points: its host in small letters, its path in decoded parts, its query."""

    host: str
    parts: tuple[str, ...]
    query: Mapping[str, str]


def read_page(url: str) -> Page:
    """The page of a URL that has a scheme.

    Raises ValueError with the end of a sentence for what is no URL, and for paths that climb or hide characters.
    """
    try:
        split = urlsplit(url)
        host = split.hostname or ""
    except ValueError as error:
        raise ValueError("is no URL that can be read: expected https://host/path") from error
    if "@" in split.netloc:
        raise ValueError("has a user in its URL: expected https://host/path; tokens are inputs of their own")
    parts = tuple(checked_part(unquote(part)) for part in split.path.split("/") if part)
    return Page(host.lower(), parts, dict(parse_qsl(split.query)))


def checked_part(part: str) -> str:
    """One part of a path, fit to be put into another URL; raises ValueError with the end of a sentence."""
    if part in {".", ".."} or "\\" in part or not part.isprintable() or len(part) > LONGEST_PART:
        raise ValueError("has a path with dots alone, a backslash or signs that cannot be seen: expected plain names")
    if any(inner in {".", ".."} for inner in part.split("/")):
        raise ValueError("has a path that climbs: expected plain names")
    return part
