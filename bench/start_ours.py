"""A process that sets up the predictor as Cog does, and generates an image; started by bench/cold_start.py."""

import time

from bench.marks import PROMPT, STEPS, Timestamps, parse_arguments, print_timestamps
from lora.families.registry import family_of
from lora.serving.request import Request
from predict import Runner


def main() -> None:
    """Set up, generate an image, print the timestamps."""
    imported, side = time.time(), parse_arguments().side
    runner = Runner()
    runner.setup()
    ready = time.time()
    request = Request.checked(
        defaults=family_of(runner.base.path).sampling.defaults,
        **{
            "prompt": PROMPT,
            "negative_prompt": None,
            "aspect_ratio": "custom",
            "width": side,
            "height": side,
            "megapixels": "1",
        },
        **{"num_outputs": 1, "num_inference_steps": STEPS, "guidance_scale": None, "guidance": None},
        **{"go_fast": False, "seed": 0, "output_format": "webp", "output_quality": 90},
    )
    list(runner.models.model(runner.base.path).generate(request, None, []))
    print_timestamps(Timestamps(imported, ready, time.time()))


if __name__ == "__main__":
    main()
