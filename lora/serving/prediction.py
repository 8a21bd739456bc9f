"""Runs a prediction: logs its settings, generates the images, checks them and saves them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lora.images.metadata import Settings, text_of
from lora.serving.generation import generation_size
from lora.serving.inputs import PredictionInputs
from lora.serving.lora_merger import AppliedLora
from lora.serving.models import Model
from lora.serving.notes import notes
from lora.serving.outputs import save_images
from lora.serving.progress import LogLine
from lora.serving.requested_loras import repetition_notes
from lora.serving.safety import SafetyChecker, remove_blocked
from lora.serving.settings import settings_of
from lora.serving.usage import RecordMetric, Usage


def predict(
    inputs: PredictionInputs,
    model: Model,
    loras: Sequence[AppliedLora],
    *,
    base_name: str,
    checker: SafetyChecker | None,
    log_line: LogLine,
    usage: Usage,
    record_metric: RecordMetric,
    into: Path,
) -> list[Path]:
    """Generate the images of a prediction, save them in a folder, and return their paths.

    `usage` has what reading the LoRAs took; the rest is added, and all of it recorded if the prediction succeeds.
    Without a checker all images are saved. Raises ValueError if a LoRA is incompatible with the model, RuntimeError if
    all images are blocked, an image has NaN or infinite pixels or the GPU runs out of memory, and OSError if a file
    cannot be written.
    """
    inputs = _without_impossible_speed(inputs, model, log_line)
    settings = _log_settings(inputs, model, loras, base_name=base_name, log_line=log_line)
    kept = _generate_checked(inputs, model, loras, checker=checker, log_line=log_line, usage=usage)
    paths = save_images(kept, inputs.request, settings, into=into)
    usage.record(record_metric, kept.values())
    return paths


def _without_impossible_speed(inputs: PredictionInputs, model: Model, log_line: LogLine) -> PredictionInputs:
    """Turn go_fast off where the model cannot do it, as the public predictors do: their clients send it by default."""
    if not (inputs.request.go_fast and model.streams):
        return inputs
    log_line("note: go_fast is ignored, because the GPU has no memory for a second copy of the model in 8 bits")
    return replace(inputs, request=replace(inputs.request, go_fast=False))


def _log_settings(
    inputs: PredictionInputs, model: Model, loras: Sequence[AppliedLora], *, base_name: str, log_line: LogLine
) -> Settings:
    """Return the settings that the images depend on; log them, after a note on each input that has little effect."""
    request, source = inputs.request, inputs.source
    size = generation_size(model.pipeline, request, source, inputs.references)
    ignored = notes(model.pipeline, request, source, size, are_sides_given=inputs.are_sides_given)
    for note in (*inputs.seed_notes, *repetition_notes(inputs.loras), *ignored):
        log_line(f"note: {note}")
    size = source.output_size(size) if source else size
    settings = settings_of(
        request,
        source,
        size,
        model=base_name,
        image=inputs.image,
        mask=inputs.mask,
        loras=loras,
        references=inputs.references,
    )
    log_line(f"settings: {text_of({**settings, 'seeds': request.seeds})}")
    return settings


def _generate_checked(
    inputs: PredictionInputs,
    model: Model,
    loras: Sequence[AppliedLora],
    *,
    checker: SafetyChecker | None,
    log_line: LogLine,
    usage: Usage,
) -> Mapping[int, Image.Image]:
    """Generate the images with these LoRAs, and return those that the checker allows, by their index."""
    images = list(model.generate(inputs.request, inputs.source, loras, usage, references=inputs.references))
    kept = remove_blocked(images, checker)
    if blocked := [index + 1 for index in range(len(images)) if index not in kept]:
        log_line(f"blocked by the safety checker: image {', '.join(map(str, blocked))} of {len(images)}")
    return kept
