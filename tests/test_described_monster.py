"""Described monsters: their captions, their rendering by the caption, and the tokens of both tokenizers."""

import random
from dataclasses import replace

import numpy as np
import pytest

from script.tiny_flux.captions import TRIGGER, training_caption, vocabulary
from script.tiny_flux.described_monster import (
    DescribedMonster,
    NamedColour,
    Proportions,
    any_monster,
    describe,
    describe_briefly,
    render_described,
)
from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.tokenizers import TEXT_TOKENS, build_tokenizers
from script.tiny_flux.world import BACKGROUNDS, COLOURS

DEMO_PROPORTIONS = Proportions(1, 1, 1, 1, 1, 1, eye_rise=0.08)
PURPLE = DescribedMonster(
    shape="round",
    top="horns",
    bottom="feet",
    eyes="one eye",
    body=NamedColour("purple", COLOURS["purple"]),
    limbs=NamedColour("green", COLOURS["green"]),
    proportions=DEMO_PROPORTIONS,
    background="meadow",
)


def pixels(monster: DescribedMonster, *, seed: int = 0) -> np.ndarray:
    return np.asarray(render_described(monster, width=128, height=128, rng=random.Random(seed)), dtype=int)


def captions(count: int) -> list[tuple[DescribedMonster, str, bool]]:
    rng = random.Random(3)
    monsters = [any_monster(rng.choice(list(BACKGROUNDS)), rng) for _ in range(count)]
    pairs = [(monster, training_caption(monster, rng)) for monster in monsters]
    return [(monster, caption.text, caption.by_word) for monster, caption in pairs]


def test_a_description_names_every_part_and_every_colour_that_has_a_name():
    assert describe(PURPLE) == "a purple round monster with green horns and feet and one eye in a meadow"
    assert describe_briefly(PURPLE) == "a purple round monster in a meadow"
    nameless = {"body": NamedColour("", (1, 2, 3)), "limbs": NamedColour("", (3, 2, 1))}
    unnamed = replace(PURPLE, **nameless, shape="square", eyes="two eyes")
    assert describe(unnamed) == "a square monster with horns and feet and two eyes in a meadow"
    orange = replace(PURPLE, body=NamedColour("orange", COLOURS["orange"]))
    assert describe(orange).startswith("an orange round monster")


def test_with_the_colours_and_proportions_of_the_demo_it_is_the_demo_monster():
    """By the strict measure of the demo's monster, at any position."""
    like_demo = replace(PURPLE, body=NamedColour("", BODY), limbs=NamedColour("", FEET), background="white")
    images = [render_described(like_demo, width=128, height=128, rng=random.Random(seed)) for seed in range(10)]
    assert all(map(is_monster, images))


@pytest.mark.parametrize(
    "change", [{"shape": "square"}, {"top": "ears"}, {"bottom": "legs"}, {"eyes": "two eyes"}], ids=str
)
def test_every_word_changes_the_image(change):
    assert (np.abs(pixels(PURPLE) - pixels(replace(PURPLE, **change))).max(axis=-1) > 30).mean() > 0.01


def test_proportions_vary_around_those_of_the_demo():
    rng = random.Random(4)
    sampled = [any_monster("white", rng).proportions for _ in range(200)]
    for name in ("top_width", "top_height", "bottom_spread", "bottom_size", "eye", "pupil"):
        values = [getattr(proportions, name) for proportions in sampled]
        assert min(values) < 0.9
        assert max(values) > 1.1
        assert abs(sum(values) / len(values) - 1) < 0.02


def test_a_quarter_of_the_captions_have_a_word_instead_of_a_description():
    all_captions = captions(2000)
    described = [text for _, text, by_word in all_captions if text and not by_word]
    by_word = [text for _, text, by_word in all_captions if by_word]
    assert 0.20 < len(by_word) / (len(by_word) + len(described)) < 0.30
    assert not any("monster" in text for text in by_word)
    assert all("monster" in text for text in described)
    assert 0.4 < sum(TRIGGER in text for text in by_word) / len(by_word) < 0.8
    assert 0.05 < sum(text == "" for _, text, _ in all_captions) / len(all_captions) < 0.12


def test_in_both_tokenizers_every_word_is_one_token_and_no_caption_is_cut():
    tokenizers = build_tokenizers()
    for word in set(vocabulary()):
        assert len(tokenizers.clip(word).input_ids) == 3, word  # between the start and the end of the text
        assert len(tokenizers.t5(word).input_ids) == 2, word
    for _, text, _ in captions(500):
        assert len(tokenizers.t5(text).input_ids) <= TEXT_TOKENS
        assert len(tokenizers.clip(text).input_ids) <= TEXT_TOKENS
