"""Writes the captions of a data set into a folder: a .txt file to edit for each image, and a page to read them."""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from lora.dataset.caption_paths import caption_paths
from lora.dataset.captions import one_line
from lora.dataset.inspection import Inspector
from lora.dataset.previews import preview
from lora.dataset.reading import CaptionedImage, Dataset
from lora.images.files import quiet_pillow
from lora.reporting.pictures import data_uri, thumbnail

PAGE = "index.html"
TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image on the page."""

    name: str
    file: str  # of the caption, in the folder
    picture: str  # data URI
    caption: str
    words: int
    source: str  # who wrote the caption, or which file it is from
    prompt: str  # as trained


def refuse_folder(folder: Path) -> None:
    """Exit with one sentence unless the folder is new or empty: what is there may have been edited."""
    if folder.exists() and not folder.is_dir():
        sys.exit(f"error: --captions is {str(folder)!r}, a file: expected a new or empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        sys.exit(
            f"error: --captions is {str(folder)!r}, a folder with files in it, which may have been edited: expected a"
            " new or empty folder"
        )


def write_captions(dataset: Dataset, inspector: Inspector, folder: Path) -> str:
    """Write the captions as they are, without what training adds, and the page; return a line about it.

    An image without a caption gets an empty file. Raises OSError if the folder cannot be written to.
    """
    shown = []
    with quiet_pillow():
        for path, image in caption_paths(dataset.images).items():
            text = image.caption.text.strip() if image.caption else ""
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(f"{text}\n" if text else "", encoding="utf-8")
            shown.append(_shown(image, path, one_line(text), inspector))
    (folder / PAGE).write_text(_template().render(images=shown), encoding="utf-8")
    where = f"{folder}, beside {PAGE}, which shows them"
    return f"wrote {len(shown)} caption files into {where}; edit them, then give the folder as --input-captions"


def _shown(image: CaptionedImage, path: str, caption: str, inspector: Inspector) -> ShownImage:
    source = image.caption.source if image.caption else "no caption"
    picture = data_uri(thumbnail(preview(image, image.inspection.crops[0], inspector)))
    return ShownImage(image.name, path, picture, caption, len(caption.split()), source, " | ".join(image.prompts))


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
