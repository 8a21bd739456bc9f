"""Text on contact sheets, in any script that the font in script/fonts has."""

import bisect
import functools
import math
from pathlib import Path

from PIL import ImageFont

FONT = Path(__file__).parent / "fonts/contact-sheet.woff2"
LONGEST = 600  # characters that are looked at: more than any label shows


@functools.cache
def sheet_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of contact sheets; `size` is in pixels."""
    return ImageFont.truetype(FONT, size)


def wrapped(text: str, font: ImageFont.FreeTypeFont, *, width: int, most: int) -> list[str]:
    """Wrap text into at most `most` lines of `width` pixels, with an ellipsis if it is longer.

    Lines break at spaces, or anywhere in a word, or in a script without spaces, that is longer than a line.
    """
    rest = " ".join(text[:LONGEST].split())
    lines: list[str] = []
    while rest and len(lines) < most:
        count = max(
            bisect.bisect_right(range(1, len(rest) + 1), width, key=lambda end: math.ceil(font.getlength(rest[:end]))),
            1,
        )
        space = rest.rfind(" ", 0, count + 1)
        end = count if count == len(rest) or space <= 0 else space
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        lines[-1] = shortened(f"{lines[-1]} {rest}", font, width=width)
    return lines


def shortened(text: str, font: ImageFont.FreeTypeFont, *, width: int) -> str:
    """The text, cut with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    end = bisect.bisect_right(
        range(1, len(text) + 1), width, key=lambda end: math.ceil(font.getlength(f"{text[:end]}…"))
    )
    return f"{text[:end].rstrip()}…"
