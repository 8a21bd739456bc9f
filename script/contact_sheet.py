"""One picture that shows a whole training: what went in, and what comes out at each scale."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TILE, THUMBNAIL, GAP = 136, 62, 6
LABELS = 230  # pixels for the prompts at the left
PAPER, INK = (252, 251, 248), (30, 30, 36)


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and its images: for each scale, one image a seed."""

    prompt: str
    by_scale: dict[float, list[Image.Image]]


def contact_sheet(training_images: list[Image.Image], rows: list[Row], *, title: str) -> Image.Image:
    """The training images in a strip, then a row a prompt and a group of columns a scale."""
    groups = list(rows[0].by_scale)
    columns = sum(len(images) for images in rows[0].by_scale.values())
    width = LABELS + columns * (TILE + GAP) + len(groups) * GAP * 2 + GAP
    head = 44 + THUMBNAIL + 64
    sheet = Image.new("RGB", (width, head + len(rows) * (TILE + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP * 2, 12), title, fill=INK, font=ImageFont.load_default(18))
    _strip(sheet, training_images, top=44)
    for left, scale in zip(_group_starts(rows[0]), groups, strict=True):
        draw.text((left, head - 26), f"lora_scale {scale:g}", fill=INK, font=ImageFont.load_default(15))
    for index, row in enumerate(rows):
        _row(sheet, row, top=head + index * (TILE + GAP))
    return sheet


def _strip(sheet: Image.Image, images: Iterable[Image.Image], *, top: int) -> None:
    for index, image in enumerate(images):
        place = (GAP * 2 + index * (THUMBNAIL + 4), top)
        if place[0] + THUMBNAIL > sheet.width:
            return
        sheet.paste(image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS), place)


def _group_starts(row: Row) -> list[int]:
    starts, left = [], LABELS
    for images in row.by_scale.values():
        starts.append(left)
        left += len(images) * (TILE + GAP) + GAP * 2
    return starts


def _row(sheet: Image.Image, row: Row, *, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    draw.multiline_text((GAP * 2, top + TILE // 3), _wrapped(row.prompt), fill=INK, font=font, spacing=5)
    for left, images in zip(_group_starts(row), row.by_scale.values(), strict=True):
        for index, image in enumerate(images):
            tile = image.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left + index * (TILE + GAP), top))


def _wrapped(prompt: str, width: int = 26) -> str:
    lines = [""]
    for word in prompt.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
