"""Does a base follow prompts? Draws combinations that it never saw and judges what came out."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxPipeline
from PIL import Image

from lora.flux.loading import load_pipeline
from lora.serving.drawing import draw
from lora.serving.request import Request
from script.tiny_flux.measure import Judgement, judge
from script.tiny_flux.world import Scene, caption, held_out_scenes, render

STEPS = 20
Measure = Callable[[Image.Image], Judgement]  # `judge`, or `judge_strictly` of shape_measure.py


@dataclass(frozen=True, slots=True)
class Score:
    """The share of pictures, 0..1, in which the measure sees what the prompt asked for."""

    colour: float
    shape: float


def score_base(pipeline: FluxPipeline, scenes: list[Scene], *, seeds: int, measure: Measure = judge) -> Score:
    """Draw each scene's caption with so many seeds."""
    judged = [
        (scene, measure(image))
        for scene in scenes
        for image in draw(pipeline, plain_request(caption(scene), count=seeds))
    ]
    return _score([(scene.colour == seen.colour, scene.shape == seen.shape) for scene, seen in judged])


def score_measure(*, renders: int, measure: Measure = judge) -> Score:
    """The measure's own accuracy, on real renders of the held-out scenes."""
    rng = random.Random(11)
    scenes = [scene for scene in held_out_scenes() for _ in range(renders)]
    judged = [(scene, measure(render(scene, width=128, height=128, rng=rng))) for scene in scenes]
    return _score([(scene.colour == seen.colour, scene.shape == seen.shape) for scene, seen in judged])


def report(base: Path) -> str:
    """Both scores in words."""
    pipeline = load_pipeline(base)
    torch.set_num_threads(2)
    lines = []
    for name, score in (
        ("the measure on real renders", score_measure(renders=20)),
        ("the base on held-out combinations", score_base(pipeline, held_out_scenes(), seeds=4)),
    ):
        lines.append(f"{name}: colour {score.colour:.1%}, shape {score.shape:.1%}")
    return "\n".join(lines)


def plain_request(prompt: str, *, count: int = 1) -> Request:
    """A square picture at the defaults of the predictor, in fewer steps."""
    return Request.checked(
        takes_guidance=True,
        go_fast=False,
        prompt=prompt,
        aspect_ratio="1:1",
        megapixels="1",
        width=None,
        height=None,
        num_outputs=count,
        num_inference_steps=STEPS,
        guidance_scale=3.5,
        guidance=None,
        seed=100,
        output_format="png",
        output_quality=90,
    )


def _score(hits: list[tuple[bool, bool]]) -> Score:
    colours, shapes = zip(*hits, strict=True)
    return Score(sum(colours) / len(hits), sum(shapes) / len(hits))
