"""Errors about archives. The code that raises them does not know which input the archive came from."""

from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = "expected a zip, tar or tar.gz of images"


class ContentError(ValueError):
    """A problem with an archive. The message is the end of a sentence that begins with the name of the input."""


@contextmanager
def naming_input(name: str) -> Iterator[None]:
    """Convert a ContentError into a ValueError whose message begins with the name of the input."""
    try:
        yield
    except ContentError as error:
        raise ValueError(f"{name} {error}") from error
