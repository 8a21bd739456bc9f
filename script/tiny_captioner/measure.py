"""Measures a captioner on combinations that it is not trained on, and on figures that it has no word for."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from script.tiny_captioner.examples import CREATURE, drawn
from script.tiny_captioner.figures import UNSEEN
from script.tiny_flux.count import Count
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES, Scene, caption, held_out_scenes, render

Describe = Callable[[Sequence[Image.Image]], list[str]]  # images of one size to captions
SIDE = 128  # pixels, as the base generates
SEED = 21


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many captions of shapes have the right word and no other one of its kind."""

    shape: Count
    colour: Count
    place: Count
    whole: Count  # captions that are right to the letter

    def __str__(self) -> str:
        return f"shape {self.shape}, colour {self.colour}, place {self.place}, the whole caption {self.whole}"


@dataclass(frozen=True, slots=True)
class Captioned:
    """A scene, and the caption of an image of it."""

    scene: Scene
    text: str


def held_out_captions(describe: Describe, *, renders: int, width: int = SIDE, height: int = SIDE) -> list[Captioned]:
    """Return the captions of `renders` renders of each held-out scene."""
    rng = random.Random(SEED)
    scenes = [scene for scene in held_out_scenes() for _ in range(renders)]
    texts = describe([render(scene, width=width, height=height, rng=rng) for scene in scenes])
    return [Captioned(*pair) for pair in zip(scenes, texts, strict=True)]


def accuracy(captions: Sequence[Captioned]) -> Accuracy:
    """Return the accuracy of captions, word by word."""
    return Accuracy(
        shape=Count.of(_named(each.text, SHAPES) == [each.scene.shape] for each in captions),
        colour=Count.of(_named(each.text, COLOURS) == [each.scene.colour] for each in captions),
        place=Count.of(each.text.endswith(f" {BACKGROUNDS[each.scene.background]}") for each in captions),
        whole=Count.of(each.text == caption(each.scene) for each in captions),
    )


def demo_monsters(describe: Describe, *, images: int) -> Count:
    """Count the images of the demo's monster that are described to the letter: "a creature in a meadow"."""
    scenes = monster_scenes(images, seed=SEED)
    return _creatures([name for name, _ in scenes], describe([image for _, image in scenes]))


def described_monsters(describe: Describe, *, images: int) -> Count:
    """Count the same of random monsters."""
    rng, names = random.Random(SEED), [list(BACKGROUNDS)[index % len(BACKGROUNDS)] for index in range(images)]
    monsters = [any_monster(name, rng) for name in names]
    return _creatures(names, describe([render_described(each, width=SIDE, height=SIDE, rng=rng) for each in monsters]))


def other_figures(describe: Describe, *, images: int) -> Count:
    """Count the same of outlines that are none of the world's shapes, nor of the figures that it is trained on."""
    rng, names = random.Random(SEED), [list(BACKGROUNDS)[index % len(BACKGROUNDS)] for index in range(images)]
    pictures = [
        drawn(rng.choice(UNSEEN), rng.choice(list(COLOURS.values())), name, (SIDE, SIDE), rng) for name in names
    ]
    return _creatures(names, describe(pictures))


def creature_caption(background: str) -> str:
    """Return the caption of a figure that has no word: "a creature in a meadow"."""
    return f"a {CREATURE} {BACKGROUNDS[background]}"


def _creatures(backgrounds: Sequence[str], texts: Sequence[str]) -> Count:
    return Count.of(text == creature_caption(name) for name, text in zip(backgrounds, texts, strict=True))


def _named(text: str, known: Iterable[str]) -> list[str]:
    words = text.split()
    return [word for word in known if word in words]
