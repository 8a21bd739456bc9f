"""How many of how many."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Count:
    """How many images show what they should, of how many."""

    right: int
    images: int

    @classmethod
    def of(cls, hits: Iterable[bool]) -> "Count":
        """One hit an image."""
        found = list(hits)
        return cls(sum(found), len(found))

    def __str__(self) -> str:
        return f"{self.right} of {self.images}"
