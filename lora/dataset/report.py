"""What a person should know of a data set before it is trained: counts, sizes, prompts, and what is worth a look."""

from collections import Counter
from dataclasses import asdict, dataclass

from lora.dataset.advice import warnings_about
from lora.dataset.archive import Skipped
from lora.dataset.caption_files import SUFFIXES
from lora.dataset.captions import PromptRule
from lora.dataset.names import suffix_of
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.similarity import look_alikes
from lora.dataset.wording import SHOWN, counted

SIZES_SHOWN = 12
PROMPTS_SHOWN = 3
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is shown, as plain values."""

    images: tuple[Json, ...]
    skipped: tuple[Skipped, ...]
    caption_sources: dict[str, int]
    buckets: dict[str, int]
    look_alikes: tuple[tuple[str, ...], ...]
    prompts: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> Json:
        """The same for a file."""
        return asdict(self)

    def as_text(self) -> str:
        """The same for a person."""
        captioned = sum(self.caption_sources.values())
        sources = ", ".join(f"{count} from {source}" for source, count in self.caption_sources.items())
        lines = [
            f"{counted(len(self.images), 'image')}, {captioned} with a caption" + (f": {sources}" if sources else "")
        ]
        sizes = [f"{size}: {counted(count, 'image')}" for size, count in self.buckets.items()]
        lines += _listed("sizes in training", sizes, shown=SIZES_SHOWN)
        lines += _listed("skipped", [f"{file.name!r}: {file.reason}" for file in self.skipped], shown=SHOWN)
        lines += _listed("training prompts, such as", list(self.prompts), shown=PROMPTS_SHOWN)
        lines += _listed("worth a look", list(self.warnings), shown=len(self.warnings))
        return "\n".join(lines)


def report_on(dataset: Dataset, *, rule: PromptRule, resolutions: tuple[int, ...]) -> Report:
    """Look through a data set; `resolutions` are those asked for."""
    groups = look_alikes([image.look.perceptual_hash for image in dataset.images])
    alike = [[dataset.images[index] for index in group] for group in groups]
    sources = Counter(_kind_of_source(image.caption.source) for image in dataset.images if image.caption)
    buckets = Counter(size for image in dataset.images for size in image.look.sizes)
    return Report(
        images=tuple(_described(image) for image in dataset.images),
        skipped=dataset.skipped,
        caption_sources=dict(sources),
        buckets={str(size): count for size, count in sorted(buckets.items())},
        look_alikes=tuple(tuple(image.name for image in group) for group in alike),
        prompts=_some_prompts(dataset.images),
        warnings=tuple(warnings_about(dataset, alike, rule=rule, resolutions=resolutions)),
    )


def _described(image: CaptionedImage) -> Json:
    look = image.look
    return {
        "name": image.name,
        "sha256": look.content,
        "size": str(look.original),
        "trained_at": [str(size) for size in look.sizes],
        "caption_from": image.caption.source if image.caption else None,
        "prompt": image.prompt,
        "sharpness": round(look.sharpness, 5),
    }


def _kind_of_source(name: str) -> str:
    return f"{suffix_of(name)} files" if suffix_of(name) in SUFFIXES else name


def _some_prompts(images: tuple[CaptionedImage, ...]) -> tuple[str, ...]:
    """The first, one from the middle and the last, as they will be trained."""
    indices = sorted({0, len(images) // 2, len(images) - 1})
    return tuple(images[index].prompt for index in indices)


def _listed(heading: str, items: list[str], *, shown: int) -> list[str]:
    more = [f"  and {len(items) - shown} more"] if len(items) > shown else []
    return [heading, *(f"  {item}" for item in items[:shown]), *more] if items else []
