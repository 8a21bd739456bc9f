"""The report page of a training while it runs, and what the page shows of its steps and samples."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lora.images.metadata import settings_in
from lora.reporting.contents import Contents, Fixed, Outcome, Point, Sample, Validation
from lora.reporting.page import write_page
from lora.training.learning.history import StepNumbers
from lora.training.learning.samples import SUFFIX, references_of
from lora.training.learning.validation import ValidationResult


class LivePage:
    """A page that is rewritten while the training runs, so that it can be watched."""

    def __init__(self, fixed: Fixed, samples: Path, path: Path) -> None:
        """`samples` is the folder of the sample images, which may be missing."""
        self._fixed, self._samples, self._path = fixed, samples, path

    def write(
        self, steps: Sequence[StepNumbers], results: Sequence[ValidationResult], *, is_running: bool = True
    ) -> None:
        """Rewrite the page. A page that cannot be written costs nothing but the page."""
        contents = contents_of(self._fixed, self._samples, steps, results, None, is_running=is_running)
        with suppress(OSError):
            write_page(contents, self._path)


def contents_of(
    fixed: Fixed,
    samples: Path,
    steps: Sequence[StepNumbers],
    results: Sequence[ValidationResult],
    outcome: Outcome | None,
    *,
    is_running: bool,
) -> Contents:
    """What the page shows; `outcome` is None while the training runs, and if it ended without a LoRA."""
    return Contents(
        fixed=fixed,
        points=tuple(Point(step.step, step.loss, step.smoothed_loss) for step in steps),
        validations=tuple(Validation(result.step, result.mean) for result in results),
        samples=tuple(_sample(path) for path in sorted(samples.glob(f"step-*{SUFFIX}"))),
        outcome=outcome,
        is_running=is_running,
    )


def _sample(path: Path) -> Sample:
    settings = settings_in(path)
    return Sample(
        str(settings["prompt"]),
        int(str(settings["seed"])),
        int(str(settings["training_step"])),
        path,
        references_of(settings, path.parent),
    )
