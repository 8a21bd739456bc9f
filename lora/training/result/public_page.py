"""The report page of a training for others: made from its tar, without images of the data set and without captions."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lora.base.presets import EDIT
from lora.publishing.card import CardImage
from lora.reporting.contents import Contents, Fixed, Outcome, Point, Sample, Setting, Validation
from lora.reporting.page import page_of
from lora.training.result.card import shown_settings, summary_line
from lora.training.result.page_base import page_base


def public_page(
    settings: Mapping[str, object], report: Mapping[str, object], losses: str, images: Iterable[CardImage], folder: Path
) -> str:
    """The page as HTML, from config.yaml, report/training.json, report/losses.jsonl and sample images in a folder.

    Raises ValueError, KeyError or TypeError for a report that no training wrote.
    """
    base, family = str(settings["base_model"]), str(settings.get("base_family", ""))
    trigger, edits = str(settings["trigger_word"]), settings.get("lora_type") == EDIT
    steps = [json.loads(line) for line in losses.splitlines()]
    validations: Iterable[dict[str, float]] = report["held_out_loss"]  # type: ignore[assignment] # JSON
    return page_of(
        Contents(
            fixed=Fixed(
                trigger_word=trigger,
                base=page_base(base, family=family, trigger_word=trigger, edits=edits),
                steps=int(str(report["steps_asked"])),
                images=(),
                warnings=(),
                settings=tuple(Setting(name, value, value) for name, value in shown_settings(settings)),
                reasons=(),
                edits=edits,
            ),
            points=tuple(Point(step["step"], step["loss"], step["smoothed_loss"]) for step in steps),
            validations=tuple(Validation(int(each["step"]), each["loss"]) for each in validations),
            samples=tuple(Sample(image.prompt, image.seed, image.step, folder / image.path) for image in images),
            outcome=Outcome(int(str(report["exported_step"])), summary_line(report)),
            is_running=False,
        )
    )
