"""The report page of a prepared training: what is known before its first step, and thumbnails of its images."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from lora.dataset.inspection import Inspector
from lora.dataset.masks import mask_line
from lora.dataset.previews import preview, reference_pictures
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.references import reference_lines
from lora.dataset.wording import named
from lora.dataset.workers import map_in_order
from lora.families.registry import family_of
from lora.images.files import quiet_pillow
from lora.images.products import marked
from lora.reporting.contents import FIXED, Fixed, Outcome, Setting, TrainedImage
from lora.reporting.page import page_of
from lora.reporting.pictures import MOST_THUMBNAILS, thumbnail
from lora.training.learning.held_out import held_out_contents
from lora.training.learning.live_page import contents_of
from lora.training.learning.samples import QUALITY, REFERENCE
from lora.training.learning.summary import TrainingSummary
from lora.training.preparation import Prepared
from lora.training.recipe.samples import SampleSettings
from lora.training.result.page_base import page_base

THUMBNAILS, FIXED_FILE, LIVE_PAGE = "thumbnails", "page.json", "report.html"
LEFT_OPEN = {"steps": 0, "learning_rate": 0.0, "lora_rank": 0}  # inputs whose zero leaves the choice to the recipe


def write_thumbnails(dataset: Dataset, inspector: Inspector, *, into: Path) -> None:
    """Write small JPEGs of the first images, named by what they show, while the image files are still there."""
    folder = into / THUMBNAILS
    folder.mkdir(exist_ok=True)

    def write(image: CaptionedImage) -> None:
        picture = thumbnail(preview(image, image.inspection.crops[0], inspector))  # the smallest
        (folder / f"{image.looks}.jpg").write_bytes(picture)

    with quiet_pillow():
        for _ in map_in_order(write, dataset.images[:MOST_THUMBNAILS]):
            pass


def write_sample_references(dataset: Dataset, inspector: Inspector, samples: SampleSettings, *, into: Path) -> None:
    """Write the references of sample images into the folder of these, while the image files are still there."""
    for number, pair in enumerate(samples.pairs, 1):
        into.mkdir(exist_ok=True)
        pictures = reference_pictures(dataset.images[pair.image], pair.crop, inspector)
        for place, picture in enumerate(pictures, 1):
            tags = marked(Image.Exif(), "reference of a sample")
            picture.save(into / REFERENCE.format(number=number, place=place), "JPEG", quality=QUALITY, exif=tags)


def held_out_line(prepared: Prepared) -> str | None:
    """A line for the log that names the images that are held out for validation; None without any."""
    contents = _held_out(prepared)
    names = [image.name for image in prepared.images.images if image.inspection.content in contents]
    return f"held out for validation: {named(names)}" if names else None


def write_fixed(prepared: Prepared, *, folder: Path) -> Path:
    """Write what is known before the first step as JSON, for the process that rewrites the page; return its path."""
    base, family = prepared.base_name, family_of(prepared.base).name
    trigger, edits = prepared.config.trigger_word, prepared.config.has_references
    fixed = Fixed(
        trigger_word=trigger,
        base=page_base(base, family=family, trigger_word=trigger, edits=edits),
        steps=prepared.recipe.steps,
        images=tuple(_images(prepared, folder / THUMBNAILS)),
        warnings=prepared.report.warnings,
        settings=tuple(_settings(prepared)),
        reasons=prepared.reasons,
        edits=edits,
    )
    path = folder / FIXED_FILE
    path.write_bytes(FIXED.dump_json(fixed))
    return path


def final_page(summary: TrainingSummary, *, folder: Path, samples: Path) -> str:
    """The page of a training that has ended, with what `write_fixed` wrote into the folder."""
    fixed = FIXED.validate_json((folder / FIXED_FILE).read_bytes())
    outcome = Outcome(summary.exported_step, summary.line())
    return page_of(contents_of(fixed, samples, summary.steps, summary.validation_results, outcome, is_running=False))


def _images(prepared: Prepared, thumbnails: Path) -> Iterator[TrainedImage]:
    contents = _held_out(prepared)
    for image in prepared.images.images:
        inspection = image.inspection
        file = thumbnails / f"{image.looks}.jpg"
        yield TrainedImage(
            name=image.name,
            prompt=" | ".join(image.prompts),
            size=str(inspection.original),
            trained_at=", ".join(map(str, inspection.sizes)),
            is_held_out=inspection.content in contents,
            notes=tuple(_notes(prepared, image)),
            thumbnail=file.read_bytes() if file.exists() else None,
        )


def _notes(prepared: Prepared, image: CaptionedImage) -> Iterator[str]:
    """What is worth a look in an image, whether its caption is by a model, several captions, mask and references."""
    yield from prepared.report.worth_a_look.get(image.name, ())
    if image.caption and image.caption.by_model:
        yield f"caption by {image.caption.source}"
    if len(image.prompts) > 1:
        yield f"{len(image.prompts)} captions, one in each step"
    if image.mask:
        yield mask_line(image.mask)
    yield from reference_lines(image.references)


def _held_out(prepared: Prepared) -> frozenset[str]:
    """The contents of the held-out images."""
    contents = {image.inspection.content for image in prepared.images.images}
    return held_out_contents(contents, seed=prepared.recipe.seed) if prepared.config.validation else frozenset()


def _settings(prepared: Prepared) -> Iterator[Setting]:
    """All settings, those first that were chosen here."""
    asked = prepared.config.settings()
    rows = [
        Setting(name, _asked(name, asked[name]) if name in asked else "", _shown(value))
        for name, value in prepared.settings().items()
    ]
    yield from sorted(rows, key=lambda row: row.asked == row.chosen)


def _asked(name: str, value: object) -> str:
    return "left open" if value is None or LEFT_OPEN.get(name) == value else _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value or "none" if value != 0 else 0)
