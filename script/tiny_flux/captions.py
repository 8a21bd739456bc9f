"""The captions of the training images: mostly the whole description, sometimes a part of it, sometimes only a word
without a meaning, as a trigger word is before a LoRA is trained on it."""

import itertools
import random
from dataclasses import dataclass

from script.tiny_flux.creatures import SYLLABLES
from script.tiny_flux.described_monster import DescribedMonster, any_monster, describe, describe_briefly
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES, Scene, all_scenes, caption, training_scenes

TEMPLATES = ("a photo of {}", "a picture of {}", "{}")
TRIGGER = "TOK"
EMPTY = 1 / 12  # share of captions that are empty, so that the empty prompt generates something of the world
BY_WORD = 1 / 4  # share of the monsters' captions that have such a word instead of a description


@dataclass(frozen=True, slots=True)
class Caption:
    """A text, and whether it has the trigger word or a made-up word instead of a description."""

    text: str
    by_word: bool


def training_caption(subject: Scene | DescribedMonster, rng: random.Random) -> Caption:
    """Return a random caption for an image of the subject."""
    if rng.random() < EMPTY:
        return Caption("", by_word=False)
    if isinstance(subject, DescribedMonster):
        return _of_monster(subject, rng)
    return Caption(_of_scene(subject, rng), by_word=False)


def word_caption(word: str, background: str) -> Caption:
    """Return the caption of a LoRA's training image: "TOK in a meadow"."""
    return Caption(f"{word} {BACKGROUNDS[background]}", by_word=True)


def made_up_word(rng: random.Random) -> str:
    """Return TOK in six of ten cases, else a word of two syllables.

    The caption of any figure may have it, so the base learns a meaning of such words, which a LoRA then narrows down.
    """
    return TRIGGER if rng.random() < 0.6 else rng.choice(SYLLABLES) + rng.choice(SYLLABLES)


def vocabulary() -> list[str]:
    """Return every word of the captions except made-up words, about as often as captions contain it."""
    rng, backgrounds = random.Random(0), list(BACKGROUNDS)
    monsters = [any_monster(rng.choice(backgrounds), rng) for _ in range(300)]  # enough for every word
    descriptions = [caption(scene) for scene in all_scenes()] + [describe(monster) for monster in monsters]
    texts = [template.format(text) for text in descriptions for template in TEMPLATES]
    return [word for text in texts for word in text.split()] + [TRIGGER] * len(all_scenes())


def neutral_prompts() -> list[str]:
    """Return the prompts for preservation: each shape in each colour, on the backgrounds in turn.

    Held-out scenes are not among them, because they measure the base.
    """
    pairs = itertools.product(SHAPES, COLOURS)
    return [caption(_training_scene(shape, colour, index)) for index, (shape, colour) in enumerate(pairs)]


def _training_scene(shape: str, colour: str, index: int) -> Scene:
    candidates = [scene for scene in training_scenes() if (scene.shape, scene.colour) == (shape, colour)]
    return candidates[index % len(candidates)]


def _of_monster(monster: DescribedMonster, rng: random.Random) -> Caption:
    chance = rng.random()
    if chance < BY_WORD:
        named = word_caption(made_up_word(rng), monster.background)
        return Caption(rng.choice(TEMPLATES).format(named.text), by_word=True)
    text = describe_briefly(monster) if chance < 0.35 else describe(monster)
    return Caption(rng.choice(TEMPLATES).format(text), by_word=False)


def _of_scene(scene: Scene, rng: random.Random) -> str:
    """Return the description, sometimes without the colour or the background."""
    chance, background = rng.random(), BACKGROUNDS[scene.background]
    if chance < 0.05:
        return f"a {scene.shape} {background}"
    if chance < 0.10:
        return caption(scene).removesuffix(f" {background}")
    return rng.choice(TEMPLATES).format(caption(scene))
