"""Does a base draw the monster that its prompt describes? Judged by the strict measure, in the colours asked for."""

from dataclasses import dataclass

from diffusers import FluxPipeline

from lora.serving.generation import generate
from script.tiny_flux.count import Count
from script.tiny_flux.described_monster import DescribedMonster, Measures, Paint, describe
from script.tiny_flux.following import plain_request
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.world import COLOURS

AS_THE_DEMO_MONSTER = Measures(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, eye_rise=0.08)


@dataclass(frozen=True, slots=True)
class Asked:
    """A monster of the demo's figure in colours of the world."""

    body: str
    limbs: str
    background: str

    @property
    def prompt(self) -> str:
        """Its description, such as "a purple round monster with green horns and feet and one eye in a meadow"."""
        body, limbs = (Paint(name, COLOURS[name]) for name in (self.body, self.limbs))
        return describe(
            DescribedMonster("round", "horns", "feet", "one eye", body, limbs, AS_THE_DEMO_MONSTER, self.background)
        )


MONSTERS = (
    Asked("purple", "green", "meadow"),
    Asked("orange", "blue", "night"),
    Asked("green", "yellow", "desert"),
    Asked("blue", "red", "white"),
    Asked("yellow", "purple", "black"),
)


def monsters_followed(pipeline: FluxPipeline, *, seeds: int) -> Count:
    """Of so many images of each of `MONSTERS`, those that show it."""
    return Count.of(
        is_monster(image, body=COLOURS[asked.body], limbs=COLOURS[asked.limbs])
        for asked in MONSTERS
        for image in generate(pipeline, plain_request(asked.prompt, count=seeds))
    )
