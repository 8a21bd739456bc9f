"""How an archive is refused: where it is found out nobody knows which input the archive came by."""

from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED = "expected a zip, tar or tar.gz of images"


class ContentError(ValueError):
    """What is wrong with an archive: the end of a sentence that begins with the name of the input."""


@contextmanager
def naming_input(name: str) -> Iterator[None]:
    """Complete the sentence of a ContentError: a ValueError leaves, which names the input."""
    try:
        yield
    except ContentError as error:
        raise ValueError(f"{name} {error}") from error
