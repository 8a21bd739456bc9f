"""What a run is measured by, and whether two arms differ beyond chance. Knows no training.

Two distances, each between a drawn picture and the nearest of many real renders before the same background, so that
place and size of the figure do not count: that of colours (how much of the picture's area is in other colours) and that
of form (pixels, scaled down to 16x16). Between real renders of a figure both are small; between those and another
figure, or what the untaught base draws, large: tests/bench/test_measures.py holds both to that.
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
from lora.serving.generation import draw
from script.tiny_flux.captions import TRIGGER
from script.tiny_flux.following import plain_request
from script.tiny_flux.learning import encoded, losses, world
from script.tiny_flux.world import BACKGROUNDS, caption, held_out_scenes

LEVELS, COARSE = 6, 16  # of a channel in the histogram; side in pixels of the picture scaled down
STANDARD_ERRORS = 2

Run = TypeVar("Run")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is trained and looked at in each run."""

    steps: int
    held_out: int  # pictures of the figure
    world: int  # pictures of the base's world
    drawn: int  # pictures drawn with the trigger word, and as many without
    inference_steps: int
    references: int  # real renders of the figure before each background

    def at(self, shares: tuple[float, ...]) -> frozenset[int]:
        """The steps at some shares of the training."""
        return frozenset(round(share * self.steps) for share in shares) - {0}


@dataclass(frozen=True, slots=True)
class Distance:
    """Each 0 for equal pictures, at most 1."""

    colours: float
    form: float


class References:
    """Real renders of a figure, so many before each background."""

    def __init__(self, concept: Concept, *, count: int) -> None:
        pictures = concept.pictures(count * len(BACKGROUNDS), seed=REFERENCE_SEED)
        self._by_background: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        for background, image in pictures:
            self._by_background.setdefault(background, []).append((colours(image), form(image)))

    def distance(self, image: Image.Image, *, background: str) -> Distance:
        """To the nearest render before this background, for colours and form each."""
        seen, shape = colours(image), form(image)
        known = self._by_background[background]
        return Distance(
            colours=min(float(np.abs(seen - other).sum() / 2) for other, _ in known),
            form=min(math.sqrt(np.square(shape - other).mean()) for _, other in known),
        )


def colours(image: Image.Image) -> NDArray[np.float64]:
    """The share of a picture's area in each of 6x6x6 colours; a colour between several counts for each in part."""
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
    """The picture in 16x16 pixels of 0..1, [16, 16, 3]."""
    small = image.convert("RGB").resize((COARSE, COARSE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def change(before: Image.Image, after: Image.Image) -> float:
    """The mean squared difference of two pictures' pixels, each 0..1."""
    one, other = (np.asarray(image.convert("RGB"), dtype=np.float64) / 255 for image in (before, after))
    return float(np.square(one - other).mean())


class Ground:
    """What the runs on a figure are measured on, which none of them is trained on, and the bare base's results."""

    def __init__(self, concept: Concept, extent: Extent, pipeline: FluxPipeline) -> None:
        self._extent, self._references = extent, References(concept, count=extent.references)
        self._held_out = examples_of(concept, extent.held_out, HELD_OUT_SEED, pipeline)
        self._world = world(pipeline, count=extent.world)
        self._places = list(BACKGROUNDS)[: extent.drawn]
        scenes = random.Random(HELD_OUT_SEED).sample(held_out_scenes(), extent.drawn)
        self._without_trigger = [caption(scene) for scene in scenes]
        self._bare = self._draw(pipeline, self._without_trigger)
        self.before = self.measured(pipeline, draws=True)
        self.real = self._real(concept)

    def measured(self, pipeline: FluxPipeline, *, draws: bool, pictures: Path | None = None) -> dict[str, list[float]]:
        """Every measure by picture, of a pipeline as it is."""
        found = {
            "held_out": list(losses(pipeline.transformer, self._held_out).by_picture),
            "world": list(losses(pipeline.transformer, self._world).by_picture),
        }
        return found | self._drawn(pipeline, pictures) if draws else found

    def _drawn(self, pipeline: FluxPipeline, pictures: Path | None) -> dict[str, list[float]]:
        figures = self._draw(pipeline, [f"{TRIGGER} {BACKGROUNDS[place]}" for place in self._places])
        others = self._draw(pipeline, self._without_trigger)
        if pictures:
            _strip(figures + others).save(pictures)
        pairs = zip(figures, self._places, strict=True)
        distances = [self._references.distance(image, background=place) for image, place in pairs]
        return {
            "colours": [distance.colours for distance in distances],
            "form": [distance.form for distance in distances],
            "change": list(itertools.starmap(change, zip(self._bare, others, strict=True))),
        }

    def _draw(self, pipeline: FluxPipeline, prompts: list[str]) -> list[Image.Image]:
        requests = [
            replace(plain_request(prompt), num_inference_steps=self._extent.inference_steps) for prompt in prompts
        ]
        return [image for request in requests for image in draw(pipeline, request)]

    def _real(self, concept: Concept) -> dict[str, list[float]]:
        """The distances of real renders, which no drawing can be expected to be below."""
        pictures = concept.pictures(TRAINING_IMAGES, seed=HELD_OUT_SEED)
        found = [self._references.distance(image, background=place) for place, image in pictures]
        return {"colours": [each.colours for each in found], "form": [each.form for each in found]}


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences with its standard error, taken two ways."""

    mean: float
    error_by_picture: float  # as if every picture of every run were independent
    error_by_run: float  # between the means of the runs (a concept and a seed each)

    @property
    def error(self) -> float:
        """The larger of the two, for pictures of a run have its LoRA in common."""
        return max(self.error_by_run, self.error_by_picture)  # the first is not a number where there is one run

    def verdict(self) -> str:
        """Which way it differs, beyond two standard errors."""
        if math.isnan(self.error):
            return "too few runs to tell"
        if abs(self.mean) <= STANDARD_ERRORS * self.error:
            return "no difference beyond two standard errors"
        return "higher" if self.mean > 0 else "lower"


def paired(ours: Mapping[Run, Sequence[float]], theirs: Mapping[Run, Sequence[float]]) -> Difference:
    """Ours minus theirs, by the runs that both have, and by picture within a run."""
    by_run = [[one - other for one, other in zip(ours[run], theirs[run], strict=True)] for run in ours if run in theirs]
    every = [difference for differences in by_run for difference in differences]
    means = [statistics.fmean(differences) for differences in by_run]
    return Difference(statistics.fmean(every), standard_error(every), standard_error(means))


def standard_error(values: Sequence[float]) -> float:
    """Of their mean; not a number for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def examples_of(concept: Concept, count: int, seed: int, pipeline: FluxPipeline, *, views: int = 1) -> list[Example]:
    pictures = concept.pictures(count, seed=seed)
    captioned = ((image, f"{TRIGGER} {BACKGROUNDS[place]}") for place, image in pictures)
    return encoded(pipeline, captioned, views=views)


def _strip(images: list[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    for index, image in enumerate(images):
        strip.paste(image, (index * image.width, 0))
    return strip
