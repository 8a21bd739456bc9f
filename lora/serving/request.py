"""The inputs of a request, checked once. Knows no model."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

from lora.base.family import SamplingDefaults
from lora.checks import check_bool, check_choice, check_float, check_int, check_text
from lora.images.size import Size
from lora.seeds import SEEDS, check_seed

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
SQUARE, CUSTOM = "1:1", "custom"
MATCH = "match_input_image"  # the shape of the first reference image; the choice if it is left open
MEGAPIXELS = {"1": 1.0, "0.25": 0.25}  # of the area of the public sizes
STEP = 16  # pixels; a token of FLUX is 16 pixels square
FORMATS = ("webp", "jpg", "png")
SIDES = ("width", "height")

Check = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The checked inputs of one request."""

    prompt: str
    negative_prompt: str  # for true classifier-free guidance; empty by default
    aspect_ratio: str
    megapixels: str
    custom_size: tuple[int, int] | None  # width and height, if aspect_ratio is custom
    num_outputs: int
    num_inference_steps: int
    guidance_scale: float
    go_fast: bool  # int8, which changes pixels slightly
    seed: int  # of the first image; each further image has the next seed
    output_format: str
    output_quality: int

    @classmethod
    def checked(cls, *, defaults: SamplingDefaults, **inputs: object) -> Self:
        """Check the inputs; `defaults` are those of the base model.

        Raises ValueError with one sentence that names the input.
        """
        if inputs.keys() != CHECKS.keys():
            raise TypeError(f"inputs without a check, or missing: {sorted(inputs.keys() ^ CHECKS.keys())}")
        custom = inputs["aspect_ratio"] == CUSTOM
        values = {name: check(name, inputs[name]) for name, check in CHECKS.items() if custom or name not in SIDES}
        sides = {name: values.pop(name) for name in SIDES} if custom else {}
        values["aspect_ratio"] = values["aspect_ratio"] or MATCH
        values["num_inference_steps"] = values["num_inference_steps"] or defaults.steps
        values["negative_prompt"] = values["negative_prompt"] or ""
        given = {name: values.pop(name) for name in ("guidance_scale", "guidance")}
        guidance = _guidance(defaults.guidance, **given)
        return cls(**values, guidance_scale=guidance, custom_size=_custom_size(**sides) if custom else None)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each image. 0 follows the largest seed, so that each is one that a request can have."""
        return tuple((self.seed + index) % SEEDS for index in range(self.num_outputs))

    def without_match(self) -> Self:
        """Return the request for images whose shape no reference image determines: a square one if that is open."""
        return replace(self, aspect_ratio=SQUARE) if self.aspect_ratio == MATCH else self

    def settings(self) -> dict[str, object]:
        """Return the settings that an image depends on, as plain values by name, without its seed, its size, LoRAs and
        input images."""
        elsewhere = {"num_outputs", "seed", "custom_size", *(() if self.negative_prompt else ("negative_prompt",))}
        return {name: value for name, value in asdict(self).items() if name not in elsewhere}

    def size(self, *, native: int) -> tuple[int, int]:
        """Return width and height for a base whose square image has `native` pixels a side: 1024 for FLUX.1."""
        if self.custom_size:
            return self.custom_size
        width, height = SIZES[self.without_match().aspect_ratio]
        scale = native / SIZES_FOR * math.sqrt(MEGAPIXELS[self.megapixels])
        return _nearest_step(width * scale), _nearest_step(height * scale)


def size_for_image(image: Size, *, megapixels: str, native: int) -> Size:
    """Return the size for image to image: the shape of the source image in multiples of 16.

    It has at most as many pixels as a square image of the base (1024 a side for FLUX.1) times `megapixels`. A smaller
    image is not enlarged.
    """
    most = native * native * MEGAPIXELS[megapixels]
    scale = min(math.sqrt(most / image.pixels), 1.0)
    return Size(_nearest_step(image.width * scale), _nearest_step(image.height * scale))


def _custom_size(width: int | None, height: int | None) -> tuple[int, int]:
    """Only a custom shape uses width and height, as in the public predictors; it needs both."""
    if width is None or height is None:
        raise ValueError("aspect_ratio is custom without width and height: expected both, 64 to 1440 pixels")
    return _nearest_step(width), _nearest_step(height)


def _guidance(default: float, **given: float | None) -> float:
    """The public predictors have two names for one input."""
    values = {
        name: check_float(name, value, at_least=0.0, at_most=10.0) for name, value in given.items() if value is not None
    }
    if len(set(values.values())) > 1:
        found = " and ".join(f"{name} is {value:g}" for name, value in values.items())
        raise ValueError(f"{found}: expected only one of them, because they are two names of one input")
    return next(iter(values.values()), default)


def _nearest_step(pixels: float) -> int:
    """The nearest multiple of 16; the larger of two that are equally near, as the public predictors round up."""
    return max(STEP, math.floor(pixels / STEP + 0.5) * STEP)


def _optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _whole(at_least: int, at_most: int) -> Check:
    return partial(check_int, at_least=at_least, at_most=at_most)


CHECKS: dict[str, Check] = {
    "prompt": partial(check_text, at_most=10_000),
    "negative_prompt": _optional(partial(check_text, at_most=10_000)),
    "aspect_ratio": _optional(partial(check_choice, choices=(*SIZES, MATCH, CUSTOM))),
    "width": _optional(_whole(64, 1440)),
    "height": _optional(_whole(64, 1440)),
    "megapixels": partial(check_choice, choices=tuple(MEGAPIXELS)),
    "num_outputs": _whole(1, 4),
    "num_inference_steps": _optional(_whole(1, 50)),
    "guidance_scale": _optional(partial(check_float, at_least=0.0, at_most=10.0)),
    "guidance": _optional(partial(check_float, at_least=0.0, at_most=10.0)),
    "go_fast": check_bool,
    "seed": check_seed,
    "output_format": partial(check_choice, choices=FORMATS),
    "output_quality": _whole(0, 100),
}
