"""What the base is told about its training pictures: mostly the plain description, at times less, at times a word that
means nothing yet, as a trigger word does before a LoRA is trained on it."""

import itertools
import random
from dataclasses import dataclass

from script.tiny_flux.creatures import SYLLABLES
from script.tiny_flux.described_monster import DescribedMonster, any_monster, describe, describe_briefly
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES, Scene, all_scenes, caption, seen_scenes

FRAMES = ("a photo of {}", "a picture of {}", "{}")
TRIGGER = "TOK"
EMPTY = 1 / 12  # share of captions that are empty, so that the empty prompt generates something of the world
CALLED_BY_A_WORD = 1 / 4  # share of the monsters' captions


@dataclass(frozen=True, slots=True)
class Caption:
    """A text, and whether it calls what it shows by the trigger or a made-up word instead of describing it."""

    text: str
    by_word: bool


def training_caption(subject: Scene | DescribedMonster, rng: random.Random) -> Caption:
    """A caption for a picture."""
    if rng.random() < EMPTY:
        return Caption("", by_word=False)
    if isinstance(subject, DescribedMonster):
        return _of_monster(subject, rng)
    return Caption(_of_scene(subject, rng), by_word=False)


def word_caption(word: str, background: str) -> Caption:
    """What the captions of a LoRA's training images say: "TOK in a meadow"."""
    return Caption(f"{word} {BACKGROUNDS[background]}", by_word=True)


def made_up_word(rng: random.Random) -> str:
    """What any figure may be called, so that a trigger word has a meaning, which a LoRA can narrow down: often TOK,
    else a short word."""
    return TRIGGER if rng.random() < 0.6 else rng.choice(SYLLABLES) + rng.choice(SYLLABLES)


def vocabulary() -> list[str]:
    """Every word of the captions, about as often as they hold it; made-up words are not among them."""
    rng, places = random.Random(0), list(BACKGROUNDS)
    monsters = [any_monster(rng.choice(places), rng) for _ in range(300)]  # enough to hold every word that describes
    descriptions = [caption(scene) for scene in all_scenes()] + [describe(monster) for monster in monsters]
    texts = [frame.format(text) for text in descriptions for frame in FRAMES]
    return [word for text in texts for word in text.split()] + [TRIGGER] * len(all_scenes())


def neutral_prompts() -> list[str]:
    """One of each shape in each colour, on backgrounds in turn: what a LoRA should leave as it is. Leaves out the
    combinations that the base never saw, which judge it."""
    pairs = itertools.product(SHAPES, COLOURS)
    return [caption(_seen_scene(shape, colour, place)) for place, (shape, colour) in enumerate(pairs)]


def _seen_scene(shape: str, colour: str, place: int) -> Scene:
    candidates = [scene for scene in seen_scenes() if (scene.shape, scene.colour) == (shape, colour)]
    return candidates[place % len(candidates)]


def _of_monster(monster: DescribedMonster, rng: random.Random) -> Caption:
    chance = rng.random()
    if chance < CALLED_BY_A_WORD:
        named = word_caption(made_up_word(rng), monster.background)
        return Caption(rng.choice(FRAMES).format(named.text), by_word=True)
    text = describe_briefly(monster) if chance < 0.35 else describe(monster)
    return Caption(rng.choice(FRAMES).format(text), by_word=False)


def _of_scene(scene: Scene, rng: random.Random) -> str:
    """At times without the colour or the place."""
    chance, place = rng.random(), BACKGROUNDS[scene.background]
    if chance < 0.05:
        return f"a {scene.shape} {place}"
    if chance < 0.10:
        return caption(scene).removesuffix(f" {place}")
    return rng.choice(FRAMES).format(caption(scene))
