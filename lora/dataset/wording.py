"""Counts and names as sentences have them."""

from lora.dataset.names import quoted

SHOWN = 5  # how many names a sentence or a list holds


def counted(number: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def named(names: list[str]) -> str:
    """The first few names, quoted, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(quoted(name) for name in names[:SHOWN]) + more
