"""What the base is told about its training pictures: mostly the plain description, at times less, at times a name."""

import itertools
import random

from script.tiny_flux.creatures import SYLLABLES, Creature
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES, Scene, all_scenes, caption, seen_scenes

FRAMES = ("a photo of {}", "a picture of {}", "{}")
TRIGGER = "TOK"


def training_caption(subject: Scene | Creature, rng: random.Random) -> str:
    """A caption for a picture; a twelfth of all are empty, so that the empty prompt draws something of the world."""
    kind = rng.random()
    if kind < 1 / 12:
        return ""
    if isinstance(subject, Scene):
        return _description(subject, kind, rng)
    name = subject.name if subject.name and kind > 0.25 else made_up_word(rng)
    return rng.choice(FRAMES).format(f"{name} {BACKGROUNDS[subject.background]}")


def made_up_word(rng: random.Random) -> str:
    """What any creature may be called, so that a trigger word has a meaning, which a LoRA can narrow down: often TOK,
    else a word too short for a name that tells a look."""
    return TRIGGER if rng.random() < 0.6 else rng.choice(SYLLABLES) + rng.choice(SYLLABLES)


def vocabulary() -> list[str]:
    """Every word of the captions, as often as the plain descriptions hold it; names are not words."""
    texts = [frame.format(caption(scene)) for scene in all_scenes() for frame in FRAMES]
    return [word for text in texts for word in text.split()] + [TRIGGER] * len(all_scenes())


def neutral_prompts() -> list[str]:
    """One of each shape in each colour, on backgrounds in turn: what a LoRA should leave as it is. Leaves out the
    combinations that the base never saw, which judge it."""
    pairs = itertools.product(SHAPES, COLOURS)
    return [caption(_seen_scene(shape, colour, place)) for place, (shape, colour) in enumerate(pairs)]


def _seen_scene(shape: str, colour: str, place: int) -> Scene:
    candidates = [scene for scene in seen_scenes() if (scene.shape, scene.colour) == (shape, colour)]
    return candidates[place % len(candidates)]


def _description(scene: Scene, kind: float, rng: random.Random) -> str:
    """At times without the colour or the place."""
    place = BACKGROUNDS[scene.background]
    if kind < 0.13:
        return f"a {scene.shape} {place}"
    if kind < 0.18:
        return caption(scene).removesuffix(f" {place}")
    return rng.choice(FRAMES).format(caption(scene))
