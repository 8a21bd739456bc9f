"""What the page asks of the predictor: inputs that are checked, progress and errors in words. Knows no field."""

import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import gradio as gr

from deploy.space.cancellations import Cancellations
from deploy.space.generation import WITH, WITHOUT, Comparison, Step
from lora.images.metadata import Settings, settings_in
from lora.publishing.card import code_span
from lora.seeds import check_seed
from weights.references import open_lora

Inputs = Mapping[str, Any]  # of Runner.run
Compare = Callable[[Inputs], Generator[Step | Comparison]]
CANCELLED = "Cancelled."
EXPECTED_LORA = "expected a LoRA on Hugging Face, as hf://owner/name, or another reference"


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows of a generation: a text, and at the end the files without and with the LoRA, and their
    seed."""

    text: str
    files: tuple[str, str] | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class PageRequests:
    """Answers the requests of a page."""

    compare: Compare
    has_own_lora: bool  # the deployment names the LoRA; else each request does
    base_model: str  # that a LoRA must be made for, if its host says that
    cancellations: Cancellations

    def generate(self, inputs: Inputs, session: str) -> Iterator[Shown]:
        """Generate an image without the LoRA and one with it, and yield what to show.

        The files exist until the iterator goes on. Ends at the next step after the session cancels it. Raises gr.Error
        with one sentence.
        """
        cancelled = self.cancellations.begin(session)
        try:
            if not cancelled.is_set():  # while it waited
                with closing(self._generate(inputs)) as generated:
                    yield from takewhile(lambda _: not cancelled.is_set(), generated)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise gr.Error(_as_text(error), print_exception=False) from error
        finally:
            self.cancellations.end(session)
        if cancelled.is_set():
            yield Shown(CANCELLED)

    def _generate(self, inputs: Inputs) -> Generator[Shown]:
        seed = check_seed("seed", inputs["seed"])  # the same for both images
        if not self.has_own_lora:
            _fetch(str(inputs["lora_weights"] or ""), self.base_model)
        with closing(self.compare({**inputs, "seed": seed})) as events:
            for event in events:
                if isinstance(event, Step):
                    yield Shown(f"Image {event.image} the LoRA: step {event.number} of {inputs['num_inference_steps']}")
                else:
                    with tempfile.TemporaryDirectory() as folder:
                        yield _result(event, Path(folder))


def _result(comparison: Comparison, folder: Path) -> Shown:
    before, after = (folder / f"{name}-lora{comparison.suffix}" for name in (WITHOUT, WITH))
    before.write_bytes(comparison.before)
    after.write_bytes(comparison.after)
    settings = settings_in(after)
    return Shown(settings_text(settings), (str(before), str(after)), int(str(settings["seed"])))


def settings_text(settings: Settings) -> str:
    """The settings of an image in Markdown; its file has them, too."""
    loras: Any = settings["loras"]  # digests and scales; empty at strength 0
    shown = {
        "Seed": settings["seed"],
        "Strength": f"{loras[0][1] if loras else 0:g}",
        "Steps": settings["num_inference_steps"],
        "Guidance": settings["guidance_scale"],
        "Size": f"{settings['width']} x {settings['height']}",
        "Base": settings["model"],
    }
    line = " · ".join(f"{name} **{value}**" for name, value in shown.items())
    texts = {"": str(settings["prompt"]), "without ": str(settings.get("negative_prompt", ""))}
    return "\n\n".join([line, *(f"{word}{code_span(text)}" for word, text in texts.items() if text.strip())])


def _fetch(reference: str, base_model: str) -> None:
    """Download a visitor's LoRA into the cache, where the predictor finds it: on ZeroGPU, before the GPU's time
    begins."""
    if not reference.strip():
        raise ValueError(f"lora_weights is empty: {EXPECTED_LORA}")
    with open_lora(reference, named="lora_weights", base_model=base_model):
        pass


def _as_text(error: Exception) -> str:
    """An error for the page, which reads HTML; it has one line unless nobody has foreseen it."""
    return str(error).partition("\n")[0].replace("&", "&amp;").replace("<", "&lt;")
