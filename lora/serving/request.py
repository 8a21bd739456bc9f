"""What a person asked to be drawn: values, checked once. Knows no model."""

import random
from dataclasses import dataclass
from typing import Self

from lora.checks import number, one_of, text, whole_number

# Sizes of FLUX's public predictors for a base of 1024 pixels.
SIZES: dict[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "21:9": (1536, 640),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "3:4": (896, 1152),
    "4:3": (1152, 896),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}
SIZES_FOR = 1024
CUSTOM = "custom"
STEP = 16  # FLUX's tokens are 16 pixels a side
FORMATS = ("webp", "jpg", "png")
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call."""

    prompt: str
    lora_scale: float
    aspect_ratio: str
    custom_size: tuple[int, int] | None  # width and height, where aspect_ratio is custom
    num_outputs: int
    num_inference_steps: int
    guidance_scale: float
    seed: int  # of the first image; image i has seed + i
    output_format: str
    output_quality: int

    @classmethod
    def checked(
        cls,
        *,
        prompt: str,
        lora_scale: float,
        aspect_ratio: str,
        width: float | None,
        height: float | None,
        num_outputs: float,
        num_inference_steps: float,
        guidance_scale: float,
        seed: float | None,
        output_format: str,
        output_quality: float,
    ) -> Self:
        """From the inputs as they arrive; raises ValueError with one sentence that names the input."""
        return cls(
            prompt=text("prompt", prompt, at_most=10_000),
            lora_scale=number("lora_scale", lora_scale, at_least=-1.0, at_most=3.0),
            aspect_ratio=one_of("aspect_ratio", aspect_ratio, [*SIZES, CUSTOM]),
            custom_size=_custom_size(aspect_ratio, width, height),
            num_outputs=whole_number("num_outputs", num_outputs, at_least=1, at_most=4),
            num_inference_steps=whole_number("num_inference_steps", num_inference_steps, at_least=1, at_most=50),
            guidance_scale=number("guidance_scale", guidance_scale, at_least=0.0, at_most=10.0),
            seed=_seed(seed),
            output_format=one_of("output_format", output_format, FORMATS),
            output_quality=whole_number("output_quality", output_quality, at_least=0, at_most=100),
        )

    def size(self, *, native: int) -> tuple[int, int]:
        """Width and height for a base whose square image has `native` pixels a side: 1024 for FLUX.1."""
        if self.custom_size:
            return self.custom_size
        width, height = SIZES[self.aspect_ratio]
        return _nearest_step(width * native / SIZES_FOR), _nearest_step(height * native / SIZES_FOR)


def _custom_size(aspect_ratio: str, width: float | None, height: float | None) -> tuple[int, int] | None:
    """Width and height matter for a custom shape only, as with the public predictors; there both are needed."""
    if aspect_ratio != CUSTOM:
        return None
    if width is None or height is None:
        raise ValueError("aspect_ratio is custom without width and height: expected both, 64 to 1440 pixels")
    sides = [
        whole_number(name, side, at_least=64, at_most=1440) for name, side in (("width", width), ("height", height))
    ]
    return _nearest_step(sides[0]), _nearest_step(sides[1])


def _nearest_step(pixels: float) -> int:
    return max(STEP, round(pixels / STEP) * STEP)


def _seed(seed: float | None) -> int:
    if seed is None:
        return random.SystemRandom().randint(0, LARGEST_SEED)
    return whole_number("seed", seed, at_least=0, at_most=LARGEST_SEED)
