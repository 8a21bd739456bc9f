"""Prompt following of a base: generates held-out scenes and classifies the images."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from diffusers import FluxPipeline
from PIL import Image

from lora.flux.sampling import SAMPLING
from lora.serving.generation import generate
from lora.serving.request import Request
from script.tiny_flux.measure import Classification, classify
from script.tiny_flux.world import Scene, caption, held_out_scenes, render

STEPS = 20
Classifier = Callable[[Image.Image], Classification]  # `classify`, or `classify_strictly` of shape_measure.py


@dataclass(frozen=True, slots=True)
class Score:
    """The fraction of images, 0..1, that have the colour or the shape of their prompt."""

    colour: float
    shape: float

    def __str__(self) -> str:
        return f"colour {self.colour:.1%}, shape {self.shape:.1%}"


SceneImages = list[tuple[Scene, Image.Image]]  # each image with the scene that it should show
Generator = Callable[[str, int], list[Image.Image]]  # a prompt, a number of images -> images of different seeds


def score_base(pipeline: FluxPipeline, scenes: list[Scene], *, seeds: int, classifier: Classifier = classify) -> Score:
    """Return the score of a base on the captions of scenes, each with `seeds` seeds."""
    return score(generated(pipeline, scenes, seeds=seeds), classifier=classifier)


def score_classifier(*, renders: int, classifier: Classifier = classify) -> Score:
    """Return the accuracy of a classifier on `renders` renders of each held-out scene."""
    rng = random.Random(11)
    scenes = [scene for scene in held_out_scenes() for _ in range(renders)]
    return score([(scene, render(scene, width=128, height=128, rng=rng)) for scene in scenes], classifier=classifier)


def generated(pipeline: FluxPipeline, scenes: list[Scene], *, seeds: int) -> SceneImages:
    """Generate images of each scene's caption, one for each of `seeds` seeds."""
    return generated_by(flux1_generator(pipeline), scenes, seeds=seeds)


def generated_by(generator: Generator, scenes: list[Scene], *, seeds: int) -> SceneImages:
    """Generate images of each scene's caption by any generator, one for each of `seeds` seeds."""
    return [(scene, image) for scene in scenes for image in generator(caption(scene), seeds)]


def flux1_generator(pipeline: FluxPipeline) -> Generator:
    """Return the generator of a FLUX.1 pipeline, as predict.py uses it."""
    return lambda prompt, count: list(generate(pipeline, plain_request(prompt, count=count)))


def score(images: SceneImages, *, classifier: Classifier) -> Score:
    """Return the score of images by a classifier."""
    classified = [(scene, classifier(image)) for scene, image in images]
    colours, shapes = zip(*((s.colour == c.colour, s.shape == c.shape) for s, c in classified), strict=True)
    return Score(sum(colours) / len(classified), sum(shapes) / len(classified))


def plain_request(prompt: str, *, count: int = 1) -> Request:
    """Return a request for square images with the defaults of predict.py and fewer steps."""
    return Request.checked(
        defaults=SAMPLING.defaults,
        go_fast=False,
        prompt=prompt,
        negative_prompt=None,
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
