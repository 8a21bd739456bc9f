"""What the learning benchmark teaches beside a subject: three styles and three collections of captioned things, and
the measures of a run on one of them. Knows no training.

Both are shown in some scenes and measured on others. Of each generated image is measured whether it shows what its
prompt says: for a style the style, the colour and the shape; for a thing whether it is the most similar of all things
for which it may be mistaken, and similar enough. Figures and grounds are compared by the forms of whole images, and
shapes by their silhouettes and the colour, as these depend on neither place nor size.
"""

import functools
import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from diffusers import FluxPipeline
from PIL import Image

from bench.captioned_things import COLLECTIONS, Collection, caption_thing, render_thing
from bench.concepts import HELD_OUT_SEED, REFERENCE_SEED, TRAINING_SEED
from bench.measures import Extent, change, form, joined, rightness
from bench.style_measures import STYLE_MEASURES
from bench.styles import GROUNDS, STYLES, new_scenes, render_styled, shown_scenes
from lora.dataset.encoding import Example
from lora.serving.generation import generate
from script.tiny_flux.captions import TRIGGER
from script.tiny_flux.following import plain_request
from script.tiny_flux.learning import encoded, losses, world
from script.tiny_flux.measure import classify_object, object_mask, silhouette_overlap
from script.tiny_flux.world import Scene, caption, held_out_scenes

MOST_DISTANT = 0.16  # form distance at which an image still shows a figure or a ground; our choice
LEAST_OVERLAP = 0.8  # of silhouettes, at which an object still has a shape; our choice

Measures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Task:
    """What a LoRA of one type is to learn, and how an image is compared with the scene that was asked for."""

    name: str
    lora_type: str
    shown: tuple[Scene, ...]
    new: tuple[Scene, ...]
    render: Callable[[Scene, random.Random], Image.Image]
    prompt: Callable[[Scene], str]
    measure: Callable[[Scene, Image.Image, int], Measures]  # with the number of reference renders
    without: tuple[Scene, ...]  # scenes of the world, asked for without the trigger word or any new thing
    spill: Callable[[Image.Image], Measures]  # of the images of those

    def examples(self, pipeline: FluxPipeline, *, crops: int) -> list[Example]:
        """The encoded training images."""
        return self._encoded(pipeline, self.shown, TRAINING_SEED, crops)

    def held_out(self, pipeline: FluxPipeline, count: int) -> list[Example]:
        """Encoded images of new scenes."""
        return self._encoded(pipeline, spread(self.new, count), HELD_OUT_SEED, 1)

    def _encoded(self, pipeline: FluxPipeline, scenes: tuple[Scene, ...], seed: int, crops: int) -> list[Example]:
        rng = random.Random(seed)
        return encoded(pipeline, [(self.render(scene, rng), self.prompt(scene)) for scene in scenes], crops=crops)


class TaskEvaluation:
    """Measures runs on a task, with images that none of them is trained on; holds the results of the bare base."""

    def __init__(self, task: Task, extent: Extent, pipeline: FluxPipeline) -> None:
        self._task, self._extent = task, extent
        self._held_out, self._world = task.held_out(pipeline, extent.held_out), world(pipeline, count=extent.world)
        self._asked, self._without = spread(task.new, extent.drawn), spread(task.without, extent.scenes)
        self._bare = self._generate(pipeline, [caption(scene) for scene in self._without])
        self.before = self.measure(pipeline, generates=True)
        self.real = self._real()

    def measure(self, pipeline: FluxPipeline, *, generates: bool, strip: Path | None = None) -> dict[str, list[float]]:
        """All measures by image; those of generated images only if `generates`. These are saved to `strip`."""
        found = {
            "held_out": list(losses(pipeline.transformer, self._held_out).by_image),
            "world": list(losses(pipeline.transformer, self._world).by_image),
        }
        return found | self._measure_images(pipeline, strip) if generates else found

    def _measure_images(self, pipeline: FluxPipeline, strip: Path | None) -> dict[str, list[float]]:
        asked = self._generate(pipeline, [self._task.prompt(scene) for scene in self._asked])
        others = self._generate(pipeline, [caption(scene) for scene in self._without])
        if strip:
            joined(asked + others).save(strip)
        pairs = list(zip(self._asked, asked, strict=True))
        return {
            **_by_name([self._task.measure(scene, image, self._extent.references) for scene, image in pairs]),
            **_by_name([self._task.spill(image) for image in others]),
            "change": list(itertools.starmap(change, zip(self._bare, others, strict=True))),
            **rightness(list(zip(self._without, others, strict=True))),
        }

    def _generate(self, pipeline: FluxPipeline, prompts: list[str]) -> list[Image.Image]:
        steps = self._extent.inference_steps
        requests = [replace(plain_request(prompt), num_inference_steps=steps) for prompt in prompts]
        return [image for request in requests for image in generate(pipeline, request)]

    def _real(self) -> dict[str, list[float]]:
        """The measures of real renders of what is asked for: an upper bound."""
        rng, count = random.Random(HELD_OUT_SEED), self._extent.references
        return _by_name([self._task.measure(scene, self._task.render(scene, rng), count) for scene in self._asked])


def spread(scenes: tuple[Scene, ...], count: int) -> tuple[Scene, ...]:
    """Up to `count` of the scenes, evenly spread."""
    count = min(count, len(scenes))
    return tuple(scenes[index * len(scenes) // count] for index in range(count))


def _by_name(measures: list[Measures]) -> dict[str, list[float]]:
    return {name: [each[name] for each in measures] for name in measures[0]} if measures else {}


def _style_task(style: str) -> Task:
    measure = STYLE_MEASURES[style]
    return Task(
        style,
        "style",
        tuple(shown_scenes()),
        tuple(new_scenes()),
        partial(render_styled, style),
        lambda scene: f"{TRIGGER} {caption(scene)}",
        partial(_measure_style, style),
        tuple(scene for scene in held_out_scenes() if scene.background in GROUNDS),
        lambda image: {"styled_without": float(measure.has_style(image))},
    )


def _measure_style(style: str, scene: Scene, image: Image.Image, _: int) -> Measures:
    measure = STYLE_MEASURES[style]
    found, has_style = measure.classify(image), measure.has_style(image)
    is_right = (found.colour, found.shape) == (scene.colour, scene.shape)
    return {
        "styled": float(has_style),
        "asked_colour": float(found.colour == scene.colour),
        "asked_shape": float(found.shape == scene.shape),
        "asked": float(has_style and is_right),
    }


def _collection_task(collection: Collection) -> Task:
    measure = _measure_shape if collection.name == "shapes" else _measure_thing
    return Task(
        collection.name,
        "general",
        collection.shown,
        collection.new,
        render_thing,
        caption_thing,
        partial(measure, collection),
        tuple(held_out_scenes()),
        lambda _: {},
    )


def _measure_thing(collection: Collection, scene: Scene, image: Image.Image, references: int) -> Measures:
    own = nearest(scene, image, references)
    is_nearest = all(own < nearest(other, image, references) for other in collection.others(scene))
    return {"asked": float(is_nearest and own < MOST_DISTANT), "form": own}


def _measure_shape(collection: Collection, scene: Scene, image: Image.Image, _: int) -> Measures:
    mask = object_mask(image)
    overlaps = {thing: silhouette_overlap(mask, _mask_of(thing)) for thing in collection.things}
    own, has_colour = overlaps[scene.shape], classify_object(image, mask).colour == scene.colour
    is_shape = own >= max(overlaps.values()) and own > LEAST_OVERLAP
    return {"asked": float(is_shape and has_colour), "asked_colour": float(has_colour), "asked_shape": float(is_shape)}


@functools.cache
def _mask_of(shape: str) -> np.ndarray:
    return object_mask(render_thing(Scene(shape, "red", "white"), random.Random(0)))


def nearest(scene: Scene, image: Image.Image, references: int) -> float:
    """The form distance of an image to the nearest of some renders of a scene."""
    return math.sqrt(np.square(_forms(scene, references) - form(image)).mean(axis=(1, 2, 3)).min())


@functools.cache
def _forms(scene: Scene, count: int) -> np.ndarray:
    """The forms of some renders of a scene, [count, 16, 16, 3]."""
    rng = random.Random(REFERENCE_SEED)
    return np.stack([form(render_thing(scene, rng)) for _ in range(count)])


TASKS = {
    task.name: task for task in (*map(_style_task, STYLES), *(_collection_task(each) for each in COLLECTIONS.values()))
}
