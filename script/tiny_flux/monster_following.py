"""Prompt following on described monsters: counts the images that show their prompt, by the strict measure."""

from dataclasses import dataclass

from script.tiny_flux.count import Count
from script.tiny_flux.described_monster import DescribedMonster, NamedColour, Proportions, describe
from script.tiny_flux.following import Generator
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.world import COLOURS

DEMO_PROPORTIONS = Proportions(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, eye_rise=0.08)


@dataclass(frozen=True, slots=True)
class MonsterPrompt:
    """A prompt for a monster with the shape of the demo's, in colours of the world."""

    body: str
    limbs: str
    background: str

    @property
    def prompt(self) -> str:
        """The description, such as "a purple round monster with green horns and feet and one eye in a meadow"."""
        body, limbs = (NamedColour(name, COLOURS[name]) for name in (self.body, self.limbs))
        return describe(
            DescribedMonster("round", "horns", "feet", "one eye", body, limbs, DEMO_PROPORTIONS, self.background)
        )


MONSTERS = (
    MonsterPrompt("purple", "green", "meadow"),
    MonsterPrompt("orange", "blue", "night"),
    MonsterPrompt("green", "yellow", "desert"),
    MonsterPrompt("blue", "red", "white"),
    MonsterPrompt("yellow", "purple", "black"),
)


def count_monsters(generator: Generator, *, seeds: int) -> Count:
    """Generate `seeds` images of each of `MONSTERS`, and count those that show it."""
    return Count.of(
        is_monster(image, body=COLOURS[monster.body], limbs=COLOURS[monster.limbs])
        for monster in MONSTERS
        for image in generator(monster.prompt, seeds)
    )
