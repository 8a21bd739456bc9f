"""A contact sheet of a training: its training images, and generated images at each scale."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TILE, THUMBNAIL, GAP = 136, 62, 6
LABELS = 230  # width of the prompts on the left, in pixels
BACKGROUND, TEXT = (252, 251, 248), (30, 30, 36)


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and its images: for each scale, one image per seed."""

    prompt: str
    by_scale: dict[float, list[Image.Image]]


def contact_sheet(training_images: list[Image.Image], rows: list[Row], *, title: str) -> Image.Image:
    """Return an image: the training images in a strip, then a row per prompt with a group of columns per scale."""
    groups = list(rows[0].by_scale)
    columns = sum(len(images) for images in rows[0].by_scale.values())
    width = LABELS + columns * (TILE + GAP) + len(groups) * GAP * 2 + GAP
    head = 44 + THUMBNAIL + 64
    sheet = Image.new("RGB", (width, head + len(rows) * (TILE + GAP) + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP * 2, 12), title, fill=TEXT, font=ImageFont.load_default(18))
    _strip(sheet, training_images, top=44)
    for left, scale in zip(_group_starts(rows[0]), groups, strict=True):
        draw.text((left, head - 26), f"lora_scale {scale:g}", fill=TEXT, font=ImageFont.load_default(15))
    for index, row in enumerate(rows):
        _row(sheet, row, top=head + index * (TILE + GAP))
    return sheet


def _strip(sheet: Image.Image, images: Iterable[Image.Image], *, top: int) -> None:
    for index, image in enumerate(images):
        position = (GAP * 2 + index * (THUMBNAIL + 4), top)
        if position[0] + THUMBNAIL > sheet.width:
            return
        sheet.paste(image.convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS), position)


def _group_starts(row: Row) -> list[int]:
    starts, left = [], LABELS
    for images in row.by_scale.values():
        starts.append(left)
        left += len(images) * (TILE + GAP) + GAP * 2
    return starts


def _row(sheet: Image.Image, row: Row, *, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    draw.multiline_text((GAP * 2, top + TILE // 3), _wrapped(row.prompt), fill=TEXT, font=font, spacing=5)
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
