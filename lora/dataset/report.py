"""The report on a data set before training: counts, sizes, prompts and warnings."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from lora.dataset.advice import warnings_about
from lora.dataset.archive import Skipped
from lora.dataset.caption_files import is_of_one_image
from lora.dataset.captions import PromptRule
from lora.dataset.names import suffix_of
from lora.dataset.notes import notes_on_choices
from lora.dataset.pairing import Caption
from lora.dataset.photo_advice import Finding, findings_about_photos
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.similarity import near_duplicates
from lora.dataset.wording import SHOWN, counted

SIZES_SHOWN = 12
PROMPTS_SHOWN = 3
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the report, as plain values. The names of the fields are keys of report/dataset.json."""

    images: tuple[Json, ...]
    skipped: tuple[Skipped, ...]
    caption_sources: dict[str, int]
    buckets: dict[str, int]
    size_note: str  # on sizes that images share
    notes: tuple[str, ...]  # on masks, and on captions that take turns
    look_alikes: tuple[tuple[str, ...], ...]
    worth_a_look: dict[str, tuple[str, ...]]  # by the name of the image, in a few words each
    prompts: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> Json:
        """The report as JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """The report as text for the log."""
        captioned = sum(self.caption_sources.values())
        sources = ", ".join(f"{count} from {source}" for source, count in self.caption_sources.items())
        with_caption = f"{captioned} with a caption: {sources}" if captioned else "none with a caption"
        lines = [f"{counted(len(self.images), 'image')}, {with_caption}"]
        sizes = [f"{size}: {counted(count, 'image')}" for size, count in self.buckets.items()]
        lines += _section("sizes in training", sizes, shown=SIZES_SHOWN)
        lines += [*([self.size_note] if self.size_note else []), *self.notes]
        lines += _section("skipped", [f"{file.name!r}: {file.reason}" for file in self.skipped], shown=SHOWN)
        lines += _section("training prompts, such as", list(self.prompts), shown=PROMPTS_SHOWN)
        lines += _section("worth a look", list(self.warnings), shown=len(self.warnings))
        return "\n".join(lines)


def report_on(dataset: Dataset, *, rule: PromptRule, resolutions: tuple[int, ...]) -> Report:
    """Report on a data set that is to be trained at `resolutions`."""
    similar = [[dataset.images[index] for index in group] for group in _look_alikes(dataset.images)]
    findings = findings_about_photos(dataset.images, similar, resolution=min(resolutions))
    sources = Counter(_kind_of_source(image.caption) for image in dataset.images if image.caption)
    buckets = Counter(size for image in dataset.images for size in image.inspection.sizes)
    return Report(
        images=tuple(_image_entry(image) for image in dataset.images),
        skipped=dataset.skipped,
        caption_sources=dict(sources),
        buckets={str(size): count for size, count in sorted(buckets.items())},
        size_note=dataset.size_note,
        notes=tuple(notes_on_choices(dataset)),
        look_alikes=tuple(tuple(image.name for image in group) for group in similar),
        worth_a_look=_marks(findings),
        prompts=_some_prompts(dataset.images),
        warnings=tuple(warnings_about(dataset, similar, rule=rule, resolutions=resolutions)),
    )


def _look_alikes(images: Sequence[CaptionedImage]) -> list[list[int]]:
    """Groups of images that look almost the same. Pairs do if both of their images do: one picture may be edited in
    several ways, and several pictures may be mended to the same."""
    groups = near_duplicates([image.inspection.thumbnail for image in images])
    first = [image.references[0].thumbnail if image.references else None for image in images]
    found = []
    for group in groups:
        thumbnails = [each for each in (first[index] for index in group) if each is not None]
        if len(thumbnails) == len(group):
            found += [[group[place] for place in places] for places in near_duplicates(thumbnails)]
        else:
            found.append(group)
    return found


def _marks(findings: Iterable[Finding]) -> dict[str, tuple[str, ...]]:
    marks: dict[str, list[str]] = defaultdict(list)
    for mark in (mark for finding in findings for mark in finding.marks):
        marks[mark.image].append(mark.text)
    return {image: tuple(texts) for image, texts in marks.items()}


def _image_entry(image: CaptionedImage) -> Json:
    inspection = image.inspection
    return {
        "name": image.name,
        "sha256": inspection.content,
        "size": str(inspection.original),
        "trained_at": [str(size) for size in inspection.sizes],
        "caption_from": image.caption.source if image.caption else None,
        "prompt": image.prompt,
        "other_prompts": list(image.prompts[1:]),
        "mask": image.mask.name if image.mask else None,
        **({"references": [each.name for each in image.references]} if image.references else {}),
        "blur": None if inspection.blur is None else round(inspection.blur, 2),
        "tones": round(inspection.tones.range),
    }


def _kind_of_source(caption: Caption) -> str:
    return f"{suffix_of(caption.source)} files" if is_of_one_image(caption) else caption.source


def _some_prompts(images: tuple[CaptionedImage, ...]) -> tuple[str, ...]:
    """The training prompts of the first, the middle and the last image that have words in them."""
    prompts = [image.prompt for image in images if image.prompt]
    indices = sorted({0, len(prompts) // 2, len(prompts) - 1}) if prompts else []
    return tuple(dict.fromkeys(prompts[index] for index in indices))


def _section(heading: str, items: list[str], *, shown: int) -> list[str]:
    more = [f"  and {len(items) - shown} more"] if len(items) > shown else []
    return [heading, *(f"  {item}" for item in items[:shown]), *more] if items else []
