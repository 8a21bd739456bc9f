"""A contact sheet of a data set: each image as cropped for training, with its sizes, prompt and caption source.

Images that are worth a look come first, marked with the reason; near-duplicates stand side by side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from lora.dataset.crops import WHOLE, crop_box
from lora.dataset.inspection import Inspector
from lora.dataset.masks import mask_line
from lora.dataset.previews import preview
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.report import Report
from lora.dataset.wording import counted
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow
from lora.images.size import Box
from script.progress import Progress
from script.sheet_card import CARD, THUMBNAIL, Card, card_height, draw_card, draw_heading, draw_title, title_height
from script.training_outline import Outline

COLUMNS, MAX_IMAGES = 5, 120
GAP, HEADING = 14, 34
PAPER = (244, 243, 239)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and images below it."""

    heading: str
    images: tuple[CaptionedImage, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The contact sheet, and how many of the images are on it."""

    picture: Image.Image
    shown: int


def dataset_sheet(
    dataset: Dataset, inspector: Inspector, report: Report, outline: Outline, progress: Progress
) -> Sheet:
    """Draw the contact sheet of the images that are worth a look, and of as many others as there is space for."""
    sections, rows = _sections(dataset, report), []
    images = [image for section in sections for image in section.images]
    cards = zip(images, _thumbnails(images, inspector), strict=True)
    for section in sections:
        drawn = []
        for image, thumbnail in (next(cards) for _ in section.images):
            drawn.append(_card(image, thumbnail, report, outline))
            progress.add()
        rows.append((section.heading, [drawn[start : start + COLUMNS] for start in range(0, len(drawn), COLUMNS)]))
    title = f"{counted(len(dataset.images), 'image')}, {len(report.worth_a_look)} worth a look"
    return Sheet(_drawn(title, outline.lines(), rows), len(images))


def _sections(dataset: Dataset, report: Report) -> list[Section]:
    flagged = [image for image in _side_by_side(dataset, report) if image.name in report.worth_a_look][:MAX_IMAGES]
    others = [image for image in dataset.images if image.name not in report.worth_a_look][: MAX_IMAGES - len(flagged)]
    found = Section("Worth a look", tuple(flagged)), Section("Other images" if flagged else "Images", tuple(others))
    return [section for section in found if section.images]


def _side_by_side(dataset: Dataset, report: Report) -> list[CaptionedImage]:
    """The images, each near-duplicate after the first image of its group."""
    places = {image.name: place for place, image in reversed(list(enumerate(dataset.images)))}
    group_of = {name: group[0] for group in report.look_alikes for name in group}
    return sorted(dataset.images, key=lambda image: (places[group_of.get(image.name, image.name)], places[image.name]))


def _card(image: CaptionedImage, thumbnail: Image.Image, report: Report, outline: Outline) -> Card:
    return Card(
        thumbnail=thumbnail,
        crops=tuple(_crop_boxes(image, thumbnail)),
        marks=report.worth_a_look.get(image.name, ()),
        is_held_out=image.name in outline.held_out,
        name=image.name,
        sizes=" · ".join(str(size) for size in reversed(image.inspection.sizes)),
        prompt=" | ".join(image.prompts) or "(no prompt)",
        source=image.caption.source if image.caption else "no caption",
        mask=mask_line(image.mask),
    )


def _crop_boxes(image: CaptionedImage, thumbnail: Image.Image) -> Iterator[Box]:
    """Yield where the random crops of the largest size lie on the thumbnail, which shows the whole image."""
    inspection, whole = image.inspection, (0.0, 0.0, float(thumbnail.width), float(thumbnail.height))
    for crop in inspection.crops:
        if crop.size == inspection.sizes[-1] and crop.number != WHOLE:
            yield crop_box(whole, crop, content=inspection.content)


def _thumbnails(images: Sequence[CaptionedImage], inspector: Inspector) -> Iterator[Image.Image]:
    """Yield thumbnails of the images, cropped for the largest size that each is trained at."""

    def thumbnail(image: CaptionedImage) -> Image.Image:
        largest = [crop for crop in image.inspection.crops if crop.number == WHOLE][-1]
        reduced = preview(image, largest, inspector)
        reduced.thumbnail((THUMBNAIL, THUMBNAIL))
        return reduced

    with quiet_pillow():
        yield from map_in_order(thumbnail, images)


def _drawn(title: str, lines: list[str], sections: list[tuple[str, list[list[Card]]]]) -> Image.Image:
    columns = max(len(row) for _, rows in sections for row in rows)
    width = max(columns, 3) * (CARD + GAP) + GAP
    heights = [HEADING + sum(max(map(card_height, row)) + GAP for row in rows) for _, rows in sections]
    sheet = Image.new("RGB", (width, title_height(lines) + sum(heights) + GAP), PAPER)
    draw_title(sheet, title, lines, left=GAP)
    top = title_height(lines)
    for heading, rows in sections:
        draw_heading(sheet, heading, (GAP, top))
        top += HEADING
        for row in rows:
            height = max(map(card_height, row))
            for column, card in enumerate(row):
                draw_card(sheet, card, (GAP + column * (CARD + GAP), top), height=height)
            top += height + GAP
    return sheet
