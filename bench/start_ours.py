"""A process that sets up as Cog does it, and draws what a request would; started by bench/cold_start.py."""

import time

from bench.marks import PROMPT, STEPS, Marks, asked, tell
from lora.serving.request import Request
from predict import Runner


def main() -> None:
    """Set up, draw, tell."""
    imported, what = time.time(), asked()
    runner = Runner()
    runner.setup()
    ready = time.time()
    request = Request.checked(
        takes_guidance=True,
        **{"prompt": PROMPT, "aspect_ratio": "custom", "width": what.side, "height": what.side, "megapixels": "1"},
        **{"num_outputs": 1, "num_inference_steps": STEPS, "guidance_scale": None, "guidance": None},
        **{"go_fast": False, "seed": 0, "output_format": "webp", "output_quality": 90},
    )
    list(runner.models.model(runner.base.path).draw(request, None, []))
    tell(Marks(imported, ready, time.time()))


if __name__ == "__main__":
    main()
