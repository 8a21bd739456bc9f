"""What the denoising loops of all pipelines share."""

from collections.abc import Callable
from typing import Any

import torch

from lora.base.family import SamplingSettings

StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]  # as diffusers calls it


def noise_generator(settings: SamplingSettings) -> torch.Generator:
    """The generator of an image's noise. It is on the CPU, so that the noise is the same on every machine."""
    return torch.Generator().manual_seed(settings.seed)


def step_callback(settings: SamplingSettings) -> StepCallback:
    """The callback for a pipeline's `callback_on_step_end`, which calls `after_step` with the number of steps that the
    pipeline runs: with an image, fewer than the settings ask for."""

    def on_step_end(pipeline: Any, _step: int, _time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 (of diffusers)
        settings.after_step(pipeline.num_timesteps)
        return kwargs

    return on_step_end
