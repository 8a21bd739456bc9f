"""Formats counts and names for messages."""

from lora.dataset.names import quoted

SHOWN = 5  # names in a sentence or a list


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 image", "2 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def named(names: list[str]) -> str:
    """The first names, quoted, and the number of further names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(quoted(name) for name in names[:SHOWN]) + more
