"""How one image of a data set looks on a contact sheet, and the headings above. Knows no data set."""

from dataclasses import dataclass

from PIL import Image, ImageDraw

from lora.images.size import Box
from script.sheet_text import sheet_font, shortened, wrapped

CARD, THUMBNAIL, PADDING = 250, 226, 12  # pixels
LINE, BASELINE, TEXT, TITLE = 18, 13, 13, 20
TITLE_TOP, TITLE_LINE = 14, 20
PROMPT_LINES, MARK_LINES = 6, 2
WHITE, INK, FAINT, RULE = (255, 255, 255), (30, 30, 36), (118, 118, 126), (226, 224, 217)
FLAG, FLAG_PAPER, HELD_OUT = (168, 62, 8), (255, 238, 222), (36, 92, 160)
CROP = (255, 255, 255, 170)
Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Card:
    """What is shown of an image."""

    thumbnail: Image.Image
    crops: tuple[Box, ...]  # on the thumbnail
    marks: tuple[str, ...]  # why it is worth a look
    is_held_out: bool
    name: str
    sizes: str
    prompt: str
    source: str
    mask: str  # where it is from; empty without one


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    color: Color
    is_mark: bool


def card_height(card: Card) -> int:
    """The height of a card, in pixels."""
    return PADDING + THUMBNAIL + PADDING // 2 + len(_lines(card)) * LINE + PADDING


def draw_card(sheet: Image.Image, card: Card, position: tuple[int, int], *, height: int) -> None:
    """Draw a card with its left upper corner at `position`."""
    left, top = position
    draw = ImageDraw.Draw(sheet, "RGBA")
    edge = FLAG if card.marks else RULE
    draw.rounded_rectangle((left, top, left + CARD, top + height), 6, fill=WHITE, outline=edge, width=1)
    x = left + (CARD - card.thumbnail.width) // 2
    y = top + PADDING + (THUMBNAIL - card.thumbnail.height) // 2
    sheet.paste(card.thumbnail, (x, y))
    for crop in card.crops:
        draw.rectangle((x + crop[0], y + crop[1], x + crop[2] - 1, y + crop[3] - 1), outline=CROP)
    line = top + PADDING + THUMBNAIL + PADDING // 2
    for each in _lines(card):
        if each.is_mark:
            draw.rectangle((left + PADDING - 4, line, left + CARD - PADDING + 4, line + LINE - 1), fill=FLAG_PAPER)
        draw.text((left + PADDING, line + BASELINE), each.text, fill=each.color, font=sheet_font(TEXT), anchor="ls")
        line += LINE


def title_height(lines: list[str]) -> int:
    """The height of the title with these lines below it, in pixels."""
    return TITLE_TOP + TITLE + PADDING + len(lines) * TITLE_LINE + PADDING


def draw_title(sheet: Image.Image, title: str, lines: list[str], *, left: int) -> None:
    """Draw the title at the top, and lines below it, cut where the sheet ends."""
    draw, top = ImageDraw.Draw(sheet), TITLE_TOP
    draw.text((left, top + TITLE), title, fill=INK, font=sheet_font(TITLE), anchor="ls")
    top += TITLE + PADDING
    for line in lines:
        font = sheet_font(TEXT)
        shown = shortened(line, font, width=sheet.width - 2 * left)
        draw.text((left, top + BASELINE), shown, fill=FAINT, font=font, anchor="ls")
        top += TITLE_LINE


def draw_heading(sheet: Image.Image, text: str, position: tuple[int, int]) -> None:
    """Draw the heading of a section, with a rule to its right."""
    draw, font, (left, top) = ImageDraw.Draw(sheet), sheet_font(TEXT + 2), position
    draw.text((left, top + LINE), text, fill=INK, font=font, anchor="ls")
    middle = top + BASELINE
    draw.line((left + font.getlength(text) + PADDING, middle, sheet.width - left, middle), fill=RULE)


def _lines(card: Card) -> list[_Line]:
    marks = [(mark, FLAG, MARK_LINES, True) for mark in card.marks]
    held_out = [("held out for validation", HELD_OUT, 1, False)] if card.is_held_out else []
    texts = [
        *marks,
        *held_out,
        (card.name, INK, 1, False),
        (card.sizes, FAINT, 2, False),
        (card.prompt, INK, PROMPT_LINES, False),
        (card.source, FAINT, 1, False),
        *([(card.mask, FAINT, 1, False)] if card.mask else []),
    ]
    width = CARD - 2 * PADDING
    return [
        _Line(line, color, is_mark)
        for text, color, most, is_mark in texts
        for line in wrapped(text, sheet_font(TEXT), width=width, most=most)
    ]
