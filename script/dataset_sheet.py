"""One picture of a data set: every image as it is cut for training, with its sizes, its prompt and its source."""

from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from lora.dataset.crops import WHOLE
from lora.dataset.inspection import Inspector
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow

COLUMNS, MOST_IMAGES = 5, 100
TILE, PICTURE, GAP = 250, 210, 14
LINES, LINE = 8, 17
PAPER, CARD, INK, FAINT = (244, 243, 239), (255, 255, 255), (30, 30, 36), (120, 120, 128)


def dataset_sheet(dataset: Dataset, inspector: Inspector) -> tuple[Image.Image, int]:
    """The sheet, and how many images are on it."""
    images = dataset.images[:MOST_IMAGES]
    columns, rows = min(COLUMNS, len(images)), -(-len(images) // COLUMNS)
    height = PICTURE + LINES * LINE + 2 * GAP
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for index, (image, picture) in enumerate(zip(images, _pictures(images, inspector), strict=True)):
        row, column = divmod(index, COLUMNS)
        place = GAP + column * (TILE + GAP), GAP + row * (height + GAP)
        ImageDraw.Draw(sheet).rectangle((*place, place[0] + TILE, place[1] + height), fill=CARD)
        _draw(sheet, image, picture, place)
    return sheet, len(images)


def _pictures(images: tuple[CaptionedImage, ...], inspector: Inspector) -> Iterator[Image.Image]:
    """Thumbnails of the largest size that each image is trained at."""

    def thumbnail(image: CaptionedImage) -> Image.Image:
        whole = [view for view in image.look.views if view.number == WHOLE]
        (pixels,) = inspector.pixels(image.path, image.look.content, whole[-1:])
        picture = Image.fromarray(pixels)
        picture.thumbnail((TILE - GAP, PICTURE - GAP))
        return picture

    with quiet_pillow():
        yield from map_in_order(thumbnail, images)


def _draw(sheet: Image.Image, image: CaptionedImage, picture: Image.Image, place: tuple[int, int]) -> None:
    left, top = place
    draw = ImageDraw.Draw(sheet)
    sheet.paste(picture, (left + (TILE - picture.width) // 2, top + GAP + (PICTURE - picture.height) // 2))
    source = image.caption.source if image.caption else "no caption"
    sizes = "  ".join(str(size) for size in reversed(image.look.sizes))
    texts = [
        (image.name, FAINT, 1),
        (sizes, FAINT, 1),
        (image.prompt or "(no prompt)", INK, LINES - 3),
        (source, FAINT, 1),
    ]
    line = top + GAP + PICTURE
    for text, ink, most in texts:
        for shown in _wrapped(text, most=most):
            draw.text((left + GAP, line), shown, fill=ink, font=ImageFont.load_default(13))
            line += LINE


def _wrapped(text: str, *, most: int) -> list[str]:
    """Text in at most so many lines, with an ellipsis if there is more."""
    font, lines = ImageFont.load_default(13), [""]
    for character in text:
        if font.getlength(lines[-1] + character) > TILE - 2 * GAP:
            if len(lines) == most:
                return [*lines[:-1], f"{lines[-1][:-1]}…"]
            head, space, tail = lines[-1].rpartition(" ")
            lines[-1:] = [head, tail] if space and character != " " else [lines[-1], ""]
        lines[-1] += character
    return [line.strip() for line in lines]
