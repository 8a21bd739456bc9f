"""A contact sheet of a data set: each image as cropped for training, with its sizes, prompt and caption source."""

from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from lora.dataset.crops import WHOLE
from lora.dataset.inspection import Inspector
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow

COLUMNS, MAX_IMAGES = 5, 100
TILE, THUMBNAIL, GAP = 250, 210, 14
LINES, LINE = 8, 17
PAPER, CARD, INK, FAINT = (244, 243, 239), (255, 255, 255), (30, 30, 36), (120, 120, 128)


def dataset_sheet(dataset: Dataset, inspector: Inspector) -> tuple[Image.Image, int]:
    """Draw the contact sheet; returns it with the number of images on it."""
    images = dataset.images[:MAX_IMAGES]
    columns, rows = min(COLUMNS, len(images)), -(-len(images) // COLUMNS)
    height = THUMBNAIL + LINES * LINE + 2 * GAP
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for index, (image, thumbnail) in enumerate(zip(images, _thumbnails(images, inspector), strict=True)):
        row, column = divmod(index, COLUMNS)
        position = GAP + column * (TILE + GAP), GAP + row * (height + GAP)
        ImageDraw.Draw(sheet).rectangle((*position, position[0] + TILE, position[1] + height), fill=CARD)
        _draw(sheet, image, thumbnail, position)
    return sheet, len(images)


def _thumbnails(images: tuple[CaptionedImage, ...], inspector: Inspector) -> Iterator[Image.Image]:
    """Yield thumbnails of the images, cropped for the largest size that each is trained at."""

    def thumbnail(image: CaptionedImage) -> Image.Image:
        whole = [crop for crop in image.inspection.crops if crop.number == WHOLE]
        (pixels,) = inspector.pixels(image.path, image.inspection.content, whole[-1:])
        reduced = Image.fromarray(pixels)
        reduced.thumbnail((TILE - GAP, THUMBNAIL - GAP))
        return reduced

    with quiet_pillow():
        yield from map_in_order(thumbnail, images)


def _draw(sheet: Image.Image, image: CaptionedImage, thumbnail: Image.Image, position: tuple[int, int]) -> None:
    left, top = position
    draw = ImageDraw.Draw(sheet)
    sheet.paste(thumbnail, (left + (TILE - thumbnail.width) // 2, top + GAP + (THUMBNAIL - thumbnail.height) // 2))
    source = image.caption.source if image.caption else "no caption"
    sizes = "  ".join(str(size) for size in reversed(image.inspection.sizes))
    texts = [
        (image.name, FAINT, 1),
        (sizes, FAINT, 1),
        (image.prompt or "(no prompt)", INK, LINES - 3),
        (source, FAINT, 1),
    ]
    line = top + GAP + THUMBNAIL
    for text, ink, most in texts:
        for shown in _wrapped(text, most=most):
            draw.text((left + GAP, line), shown, fill=ink, font=ImageFont.load_default(13))
            line += LINE


def _wrapped(text: str, *, most: int) -> list[str]:
    """Wrap text into at most `most` lines, with an ellipsis if it is longer."""
    font, lines = ImageFont.load_default(13), [""]
    for character in text:
        if font.getlength(lines[-1] + character) > TILE - 2 * GAP:
            if len(lines) == most:
                return [*lines[:-1], f"{lines[-1][:-1]}…"]
            head, space, tail = lines[-1].rpartition(" ")
            lines[-1:] = [head, tail] if space and character != " " else [lines[-1], ""]
        lines[-1] += character
    return [line.strip() for line in lines]
