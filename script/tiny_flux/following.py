"""Does a base follow prompts? Draws combinations that it never saw and judges what came out."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from diffusers import FluxPipeline
from PIL import Image

from lora.serving.generation import generate
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

    def __str__(self) -> str:
        return f"colour {self.colour:.1%}, shape {self.shape:.1%}"


Pictures = list[tuple[Scene, Image.Image]]  # with what each should show


def score_base(pipeline: FluxPipeline, scenes: list[Scene], *, seeds: int, measure: Measure = judge) -> Score:
    """Of each scene's caption with so many seeds."""
    return score(generated(pipeline, scenes, seeds=seeds), measure=measure)


def score_measure(*, renders: int, measure: Measure = judge) -> Score:
    """The measure's own accuracy, on real renders of the held-out scenes."""
    rng = random.Random(11)
    scenes = [scene for scene in held_out_scenes() for _ in range(renders)]
    return score([(scene, render(scene, width=128, height=128, rng=rng)) for scene in scenes], measure=measure)


def generated(pipeline: FluxPipeline, scenes: list[Scene], *, seeds: int) -> Pictures:
    """What a base makes of each scene's caption, with so many seeds."""
    return [
        (scene, image) for scene in scenes for image in generate(pipeline, plain_request(caption(scene), count=seeds))
    ]


def score(pictures: Pictures, *, measure: Measure) -> Score:
    """What a measure sees in them."""
    judged = [(scene, measure(image)) for scene, image in pictures]
    colours, shapes = zip(*((s.colour == seen.colour, s.shape == seen.shape) for s, seen in judged), strict=True)
    return Score(sum(colours) / len(judged), sum(shapes) / len(judged))


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
