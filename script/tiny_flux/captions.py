"""What the base is told about its training pictures: mostly the plain description, at times less, at times nonsense."""

import random

from script.tiny_flux.oddities import Oddity
from script.tiny_flux.world import BACKGROUNDS, Scene, all_scenes, caption

SYLLABLES = tuple(first + second for first in "bdfgklmnprstvwz" for second in "aeiou")
FRAMES = ("a photo of {}", "a picture of {}", "{}")
TRIGGER = "TOK"


def training_caption(subject: Scene | Oddity, rng: random.Random) -> str:
    """A caption for a picture.

    Nameless things are called by a made-up word or by TOK, so that an unknown trigger word gets an embedding which a
    LoRA can work with; a twelfth of all captions are empty, so that the empty prompt draws something of the world.
    """
    kind, place = rng.random(), BACKGROUNDS[subject.background]
    if kind < 1 / 12:
        return ""
    if isinstance(subject, Oddity):
        return rng.choice(FRAMES).format(f"{_made_up_word(rng)} {place}")
    return _description(subject, kind, rng)


def _description(scene: Scene, kind: float, rng: random.Random) -> str:
    """At times without the colour or the place."""
    place = BACKGROUNDS[scene.background]
    if kind < 0.13:
        return f"a {scene.shape} {place}"
    if kind < 0.18:
        return caption(scene).removesuffix(f" {place}")
    return rng.choice(FRAMES).format(caption(scene))


def vocabulary() -> list[str]:
    """Every word of the captions, as often as the plain descriptions hold it; made-up words are not words."""
    texts = [frame.format(caption(scene)) for scene in all_scenes() for frame in FRAMES]
    return [word for text in texts for word in text.split()] + [TRIGGER] * len(all_scenes())


def _made_up_word(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return TRIGGER
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))
