"""Measures of a run, and whether two arms differ beyond chance. Knows no training.

There are two distances, each between a generated image and the nearest of many real renders on the same background, so
that position and size of the figure do not count: the distance of colours (the share of the image's area in other
colours) and that of form (pixels, scaled down to 16x16). Both are small between real renders of a figure, and large
between those and another figure or images of the untrained base; tests/bench/test_measures.py checks this.
"""

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from diffusers import FluxPipeline
from numpy.typing import NDArray
from PIL import Image

from bench.concepts import HELD_OUT_SEED, REFERENCE_SEED, TRAINING_IMAGES, Concept
from lora.dataset.encoding import Example
from lora.serving.generation import generate
from script.tiny_flux.captions import TRIGGER
from script.tiny_flux.following import SceneImages, plain_request
from script.tiny_flux.learning import encoded, losses, world
from script.tiny_flux.measure import classify
from script.tiny_flux.shape_measure import classify_strictly
from script.tiny_flux.world import BACKGROUNDS, caption, held_out_scenes

LEVELS, COARSE = 6, 16  # levels per channel in the histogram; side of the scaled-down image in pixels
STANDARD_ERRORS = 2

Run = TypeVar("Run")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained and measured in each run."""

    steps: int
    held_out: int  # images of the figure
    world: int  # images of the base's world
    drawn: int  # images generated with the trigger word
    scenes: int  # images generated without it
    inference_steps: int
    references: int  # real renders of the figure on each background

    def at(self, shares: tuple[float, ...]) -> frozenset[int]:
        """The steps at some fractions of the training."""
        return frozenset(round(share * self.steps) for share in shares) - {0}


@dataclass(frozen=True, slots=True)
class Distance:
    """Distances from 0, for equal images, to 1."""

    colours: float
    form: float


class References:
    """Real renders of a figure, `count` on each background."""

    def __init__(self, concept: Concept, *, count: int) -> None:
        renders = concept.images(count * len(BACKGROUNDS), seed=REFERENCE_SEED)
        self._by_background: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        for background, image in renders:
            self._by_background.setdefault(background, []).append((colours(image), form(image)))

    def distance(self, image: Image.Image, *, background: str) -> Distance:
        """The distance to the nearest render on this background, separately for colours and form."""
        histogram, pixels = colours(image), form(image)
        renders = self._by_background[background]
        return Distance(
            colours=min(float(np.abs(histogram - other).sum() / 2) for other, _ in renders),
            form=min(math.sqrt(np.square(pixels - other).mean()) for _, other in renders),
        )


def colours(image: Image.Image) -> NDArray[np.float64]:
    """The share of an image's area in each of 6x6x6 colours; a colour between several is divided among them."""
    scaled = np.asarray(image.convert("RGB"), dtype=np.float64).reshape(-1, 3) / 255 * (LEVELS - 1)
    low = np.minimum(np.floor(scaled).astype(int), LEVELS - 2)
    over = scaled - low
    histogram = np.zeros(LEVELS**3)
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.where(corner, over, 1 - over).prod(axis=1)
        cell = (low + corner) @ (LEVELS**2, LEVELS, 1)
        histogram += np.bincount(cell, weights=weight, minlength=LEVELS**3)
    return histogram / len(scaled)


def form(image: Image.Image) -> NDArray[np.float64]:
    """The image scaled down to 16x16 pixels in 0..1, [16, 16, 3]."""
    small = image.convert("RGB").resize((COARSE, COARSE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def change(before: Image.Image, after: Image.Image) -> float:
    """The mean squared difference of two images' pixels, in 0..1."""
    one, other = (np.asarray(image.convert("RGB"), dtype=np.float64) / 255 for image in (before, after))
    return float(np.square(one - other).mean())


def rightness(images: SceneImages) -> dict[str, list[float]]:
    """Whether each image shows what its prompt says, as 0 or 1: the colour, the shape by the lenient measure and by the
    strict one."""
    lenient = [(scene, classify(image)) for scene, image in images]
    return {
        "right_colour": [float(scene.colour == found.colour) for scene, found in lenient],
        "right_shape": [float(scene.shape == found.shape) for scene, found in lenient],
        "exact_shape": [float(scene.shape == classify_strictly(image).shape) for scene, image in images],
    }


class Evaluation:
    """Measures runs on a figure, with images that none of them is trained on; holds the results of the bare base."""

    def __init__(self, concept: Concept, extent: Extent, pipeline: FluxPipeline) -> None:
        self._extent, self._references = extent, References(concept, count=extent.references)
        self._held_out = examples_of(concept, extent.held_out, HELD_OUT_SEED, pipeline)
        self._world = world(pipeline, count=extent.world)
        self._backgrounds = list(BACKGROUNDS)[: extent.drawn]
        self._scenes = random.Random(HELD_OUT_SEED).sample(held_out_scenes(), extent.scenes)
        self._without_trigger = [caption(scene) for scene in self._scenes]
        self._bare = self._generate(pipeline, self._without_trigger)
        self.before = self.measure(pipeline, generates=True)
        self.real = self._real(concept)

    def measure(self, pipeline: FluxPipeline, *, generates: bool, strip: Path | None = None) -> dict[str, list[float]]:
        """All measures by image; the two that need generated images only if `generates`. Those are saved to `strip`."""
        found = {
            "held_out": list(losses(pipeline.transformer, self._held_out).by_image),
            "world": list(losses(pipeline.transformer, self._world).by_image),
        }
        return found | self._measure_images(pipeline, strip) if generates else found

    def _measure_images(self, pipeline: FluxPipeline, strip: Path | None) -> dict[str, list[float]]:
        figures = self._generate(pipeline, [f"{TRIGGER} {BACKGROUNDS[name]}" for name in self._backgrounds])
        others = self._generate(pipeline, self._without_trigger)
        if strip:
            joined(figures + others).save(strip)
        pairs = zip(figures, self._backgrounds, strict=True)
        distances = [self._references.distance(image, background=name) for image, name in pairs]
        return {
            "colours": [distance.colours for distance in distances],
            "form": [distance.form for distance in distances],
            "change": list(itertools.starmap(change, zip(self._bare, others, strict=True))),
            **rightness(list(zip(self._scenes, others, strict=True))),
        }

    def _generate(self, pipeline: FluxPipeline, prompts: list[str]) -> list[Image.Image]:
        requests = [
            replace(plain_request(prompt), num_inference_steps=self._extent.inference_steps) for prompt in prompts
        ]
        return [image for request in requests for image in generate(pipeline, request)]

    def _real(self, concept: Concept) -> dict[str, list[float]]:
        """The distances of real renders, a lower bound for generated images."""
        renders = concept.images(TRAINING_IMAGES, seed=HELD_OUT_SEED)
        found = [self._references.distance(image, background=name) for name, image in renders]
        return {"colours": [each.colours for each in found], "form": [each.form for each in found]}


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, with its standard error computed in two ways."""

    mean: float
    error_by_image: float  # as if all images of all runs were independent
    error_by_run: float  # between the means of the runs (a concept and a seed each)

    @property
    def error(self) -> float:
        """The larger of the two, as the images of a run share its LoRA."""
        return max(self.error_by_run, self.error_by_image)  # the first is NaN if there is only one run

    def conclusion(self) -> str:
        """The direction of the difference, if it exceeds two standard errors."""
        if math.isnan(self.error):
            return "too few runs for a conclusion"
        if abs(self.mean) <= STANDARD_ERRORS * self.error:
            return "no difference beyond two standard errors"
        return "higher" if self.mean > 0 else "lower"


def paired(ours: Mapping[Run, Sequence[float]], theirs: Mapping[Run, Sequence[float]]) -> Difference:
    """Ours minus theirs, paired by run and by image, for the runs that both have."""
    by_run = [[one - other for one, other in zip(ours[run], theirs[run], strict=True)] for run in ours if run in theirs]
    every = [difference for differences in by_run for difference in differences]
    means = [statistics.fmean(differences) for differences in by_run]
    return Difference(statistics.fmean(every), standard_error(every), standard_error(means))


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean; NaN for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def examples_of(
    concept: Concept, count: int, seed: int, pipeline: FluxPipeline, *, crops: int = 1, word: str = TRIGGER
) -> list[Example]:
    renders = concept.images(count, seed=seed)
    captioned = ((image, f"{word} {BACKGROUNDS[name]}".strip()) for name, image in renders)
    return encoded(pipeline, captioned, crops=crops)


def joined(images: list[Image.Image]) -> Image.Image:
    """The images side by side."""
    strip = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    for index, image in enumerate(images):
        strip.paste(image, (index * image.width, 0))
    return strip
