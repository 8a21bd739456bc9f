"""Formats counts, sizes and names for messages."""

from lora.dataset.names import quoted

UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
SHOWN = 5  # names in a sentence or a list


def counted(number: int, noun: str) -> str:
    """The number with its noun: "1 image", "2 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def sized(count: int) -> str:
    """A number of bytes in the largest unit in which it is at least 1: "1.5 GiB", "20.0 MiB", "312 bytes"."""
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return counted(count, "byte")


def named(names: list[str]) -> str:
    """The first names, quoted, and the number of further names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(quoted(name) for name in names[:SHOWN]) + more
