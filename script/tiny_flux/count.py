"""A count of successes out of a number of images."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Count:
    """The number of images that meet a criterion, out of all."""

    right: int
    images: int

    @classmethod
    def of(cls, hits: Iterable[bool]) -> "Count":
        """Count the hits; there is one for each image."""
        found = list(hits)
        return cls(sum(found), len(found))

    def __str__(self) -> str:
        return f"{self.right} of {self.images}"
