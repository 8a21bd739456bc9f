"""Writes the captions of a data set into a folder: a .txt file for each image, and a page to edit them in."""

import sys
from collections.abc import Iterator
from pathlib import Path

from lora.dataset.caption_paths import caption_paths
from lora.dataset.captions import PromptRule
from lora.dataset.inspection import Inspector
from lora.dataset.previews import preview
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.refusal import ContentError
from lora.dataset.wording import counted
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow
from lora.reporting.pictures import THUMBNAIL_SIDE, data_uri, thumbnail
from script.caption_editor.page import SAVED, EditedCaption, caption_editor, editable
from script.progress import Progress

PAGE = "index.html"
SIDE, MOST_LARGE = 320, 400  # pixels of a picture; pictures of this size, about 20 kB each; our choice


def make_folder(folder: Path) -> None:
    """Make the folder; exit with one sentence unless it is new or empty: what is there may have been edited."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = "a folder with files in it, which may have been edited" if any(folder.iterdir()) else ""
    except OSError as error:
        found = "a file" if folder.is_file() else f"which cannot be used ({error.strerror})"
    if found:
        sys.exit(f"error: --captions is {str(folder)!r}, {found}: expected a new or empty folder")


def refuse_saved_zip(folder: Path) -> None:
    """Raise ContentError if a folder of captions also holds the zip that its page saved, with other captions."""
    saved = folder.glob(f"{Path(SAVED).stem}*.zip")  # a browser calls the next one captions (1).zip
    latest = max(saved, key=lambda path: path.stat().st_mtime_ns, default=None)
    if latest and (folder / PAGE).is_file():
        raise ContentError(
            f"holds {latest.name!r}, saved by the page beside it, and the files as they were before: expected"
            f" --input-captions {latest}, or a folder without it"
        )


def write_captions(
    dataset: Dataset, inspector: Inspector, folder: Path, rule: PromptRule, *, describes_empty: bool
) -> str:
    """Write the captions as they are, without what training adds, and the page; return a line about it.

    An image without a caption gets an empty file. `describes_empty` is as for `caption_editor`. Raises OSError if the
    folder cannot be written to.
    """
    with quiet_pillow():
        captions = tuple(_edited(dataset, inspector))
    page = caption_editor(captions, rule, describes_empty=describes_empty)
    for caption in captions:
        path = folder / caption.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{caption.text}\n" if caption.text else "", encoding="utf-8")
    (folder / PAGE).write_text(page, encoding="utf-8")
    return (
        f"wrote {counted(len(captions), 'caption file')} into {folder}: open {folder / PAGE} in a browser to edit the"
        f" captions and save {SAVED}, or edit the files; then train with --input-captions {SAVED}, or {folder}"
    )


def _edited(dataset: Dataset, inspector: Inspector) -> Iterator[EditedCaption]:
    side = SIDE if len(dataset.images) <= MOST_LARGE else THUMBNAIL_SIDE
    paths = list(caption_paths(dataset.images).items())

    def edited(place: tuple[str, CaptionedImage]) -> EditedCaption:
        path, image = place
        caption, picture = image.caption, preview(image, image.inspection.crops[0], inspector)
        return EditedCaption(
            name=image.name,
            file=path,
            picture=data_uri(thumbnail(picture, side)),
            text=editable(caption.text) if caption else "",
            source=f"{'by' if caption.by_model else 'from'} {caption.source}" if caption else "no caption given",
            by_model=caption is not None and caption.by_model,
            prompts=image.prompts,
        )

    progress = Progress("drew {count} images for the page of captions")
    for caption in map_in_order(edited, paths):
        progress.add()
        yield caption
    progress.end()
