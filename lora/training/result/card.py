"""The model card of a training, from what its tar has: settings, report, samples and captions."""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lora.base.presets import EDIT
from lora.images.metadata import settings_in
from lora.publishing.card import CardContents, CardImage, HeldOutLoss, Licence, card_of
from lora.reporting.contents import example_prompt
from lora.training.learning.samples import references_of
from lora.training.learning.summary import TrainingSummary
from lora.training.result.known_bases import known_base
from lora.training.result.terms import APACHE

Values = Mapping[str, object]

CARD = "README.md"
SAMPLES = "samples"
# Those that a card shows; captions, prompts and paths are not among them.
SHOWN_SETTINGS = (
    *("lora_type", "images", "steps", "learning_rate", "lora_rank", "batch_size", "gradient_accumulation"),
    *("processes", "resolutions", "optimizer", "lr_scheduler", "ema_decay", "caption_dropout_rate", "preservation"),
    *("layers", "layers_to_optimize_regex", "layers_trained", "seed"),
)
REPORTED = (  # in report/training.json, as `TrainingSummary` has them
    *("exported_step", "exported_why", "steps_done", "steps_asked", "steps_skipped", "steps_preserving"),
    "stopped_early",
)


def training_card(
    settings: Values, report: Values, samples: Path, *, captions: Collection[str], repository: str | None
) -> str:
    """The card, for the tar (without a repository) or for a repository on the Hub. The same training gives the same
    text.

    `settings` are those of config.yaml, `report` is report/training.json, which may be empty; `captions` are the
    prompts that were trained with. Samples are shown by their path in the tar.
    """
    base, family = (str(settings.get(name, "")) for name in ("base_model", "base_family"))
    trigger, known = str(settings.get("trigger_word", "")), known_base(base, family)
    images = tuple(public_samples(samples, captions=captions, trigger_word=trigger))
    return card_of(
        CardContents(
            base=known.usage,
            licence=Licence(known.terms.licence, known.terms.link, known.terms.licence == APACHE),
            trigger_word=trigger,
            example=_example(images, settings),
            images=images,
            exported_step=_exported_step(report),
            summary=summary_line(report),
            held_out=_held_out(report),
            settings=tuple(shown_settings(settings)),
            repository=repository,
            edits=settings.get("lora_type") == EDIT,
        )
    )


def public_samples(folder: Path, *, captions: Collection[str], trigger_word: str) -> Iterator[CardImage]:
    """The sample images whose prompt is no caption; the trigger word alone, which an image without a caption is trained
    with, is none. With captions, those that were generated beside images of the data set are left out, too."""
    private = {" ".join(caption.split()) for caption in captions} - {trigger_word}
    for path in sorted(folder.glob("*.jpg")):
        with suppress(OSError, ValueError, KeyError):
            found = settings_in(path)
            prompt = str(found["prompt"])
            references = tuple(f"{SAMPLES}/{each.name}" for each in references_of(found, folder))
            if " ".join(prompt.split()) not in private and not (captions and "references" in found):
                step, seed = int(str(found["training_step"])), int(str(found["seed"]))
                yield CardImage(f"{SAMPLES}/{path.name}", prompt, seed, step, references)


def summary_line(report: Values) -> str:
    """How the training went, as its log says it; empty without a report."""
    with suppress(KeyError, TypeError):
        summary = TrainingSummary(
            **{name: report[name] for name in REPORTED},  # type: ignore[arg-type] # as `_training_report` wrote them
            validation_results=(),
            steps=(),
        )
        return summary.line()
    return ""


def shown_settings(settings: Values) -> Iterator[tuple[str, str]]:
    """The settings that others may see, with their values as text."""
    for name in SHOWN_SETTINGS:
        value = settings.get(name)
        if value not in (None, "", (), []):
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _example(images: tuple[CardImage, ...], settings: Values) -> str:
    """A prompt for the snippets."""
    trigger = str(settings.get("trigger_word", ""))
    of_samples = [image.prompt for image in images if trigger in image.prompt]
    if of_samples:
        return of_samples[-1]
    if settings.get("lora_type") == EDIT:
        return example_prompt(trigger, edits=True)
    if not trigger:
        return "a photo of a lighthouse"
    return f"a picture in the style of {trigger}" if settings.get("lora_type") == "style" else f"a photo of {trigger}"


def _exported_step(report: Values) -> int | None:
    step = report.get("exported_step")
    return step if isinstance(step, int) else None


def _held_out(report: Values) -> HeldOutLoss | None:
    losses = report.get("held_out_loss")
    if not isinstance(losses, list) or not losses:
        return None
    with suppress(KeyError, TypeError, ValueError):
        found = {int(each["step"]): float(each["loss"]) for each in losses}
        step = report.get("exported_step")
        last = step if isinstance(step, int) and step in found else max(found)
        if 0 in found and last and math.isfinite(found[last]):
            return HeldOutLoss(found[0], found[last], last)
    return None
