"""Contents of report pages for tests."""

import random
from pathlib import Path

from PIL import Image

from lora.reporting.contents import Base, Contents, Fixed, Outcome, Point, Sample, Setting, TrainedImage, Validation
from lora.reporting.pictures import thumbnail

STEPS = 1000
HOSTILE = "<script>document.title='taken'</script> \"'&amp; ${1} {{ 7*7 }}"
RIGHT_TO_LEFT = "صورة TOK 🦊"
BASE = Base(
    "FLUX.1 [dev]", "FluxPipeline.from_pretrained(...)\n", "flux-1-dev-non-commercial-license", "A notice.\nTwo lines."
)


def a_picture(seed: int, side: int = 96) -> Image.Image:
    """An image that differs from that of another seed."""
    colors = random.Random(seed)
    return Image.new("RGB", (side, side), tuple(colors.randrange(256) for _ in range(3)))


def an_image(number: int, prompt: str = "a TOK") -> TrainedImage:
    return TrainedImage(
        name=f"{number}.jpg",
        prompt=prompt,
        size="4032x3024",
        trained_at="512x384",
        is_held_out=number == 1,
        notes=("blurred",) if number == 2 else (),
        thumbnail=thumbnail(a_picture(number)),
    )


def some_contents(folder: Path, *, prompt: str = "a TOK", ended: bool = True, samples: int = 5) -> Contents:
    """The contents of a page with two prompts, each with samples at as many steps."""
    points = tuple(Point(step, 0.5 - step / 4000, 0.5 - step / 4000) for step in range(1, STEPS + 1))
    return Contents(
        fixed=Fixed(
            trigger_word="TOK",
            base=BASE,
            steps=STEPS,
            images=tuple(an_image(number, prompt) for number in range(3)),
            warnings=(f"worth a look: {prompt}",),
            settings=(Setting("steps", "left open", "1000"), Setting("trigger_word", prompt, prompt)),
            reasons=("1000 steps for 3 images",),
        ),
        points=points,
        validations=(Validation(0, 0.5), Validation(550, 0.4), Validation(1000, 0.45)),
        samples=tuple(
            _sample(folder, prompt, seed, step) for seed in (42, 43) for step in range(0, 250 * samples, 250)
        ),
        outcome=Outcome(550, "The LoRA is from step 550 of 1000.") if ended else None,
        is_running=not ended,
    )


def _sample(folder: Path, prompt: str, seed: int, step: int) -> Sample:
    path = folder / f"{seed}-{step}.jpg"
    a_picture(seed * 10_000 + step, side=256).save(path, "JPEG")
    return Sample(prompt, seed, step, path)
