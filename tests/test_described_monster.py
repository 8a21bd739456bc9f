"""Described monsters: what their captions say, that what is said is drawn, and that both tokenizers read it whole."""

import random
from dataclasses import replace

import numpy as np
import pytest

from script.tiny_flux.captions import TRIGGER, training_caption, vocabulary
from script.tiny_flux.described_monster import (
    DescribedMonster,
    Measures,
    Paint,
    any_monster,
    describe,
    describe_briefly,
    render_described,
)
from script.tiny_flux.monster import BODY, FEET
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.tokenizers import TEXT_TOKENS, build_tokenizers
from script.tiny_flux.world import BACKGROUNDS, COLOURS

DEMO_MEASURES = Measures(1, 1, 1, 1, 1, 1, eye_rise=0.08)
PURPLE = DescribedMonster(
    shape="round",
    top="horns",
    bottom="feet",
    eyes="one eye",
    body=Paint("purple", COLOURS["purple"]),
    limbs=Paint("green", COLOURS["green"]),
    measures=DEMO_MEASURES,
    background="meadow",
)


def pixels(monster: DescribedMonster, *, seed: int = 0) -> np.ndarray:
    return np.asarray(render_described(monster, width=128, height=128, rng=random.Random(seed)), dtype=int)


def captions(count: int) -> list[tuple[DescribedMonster, str, bool]]:
    rng = random.Random(3)
    monsters = [any_monster(rng.choice(list(BACKGROUNDS)), rng) for _ in range(count)]
    made = [(monster, training_caption(monster, rng)) for monster in monsters]
    return [(monster, caption.text, caption.by_word) for monster, caption in made]


def test_a_description_says_every_part_and_every_colour_that_has_a_name():
    assert describe(PURPLE) == "a purple round monster with green horns and feet and one eye in a meadow"
    assert describe_briefly(PURPLE) == "a purple round monster in a meadow"
    unnamed = replace(PURPLE, body=Paint("", (1, 2, 3)), limbs=Paint("", (3, 2, 1)), shape="square", eyes="two eyes")
    assert describe(unnamed) == "a square monster with horns and feet and two eyes in a meadow"
    assert describe(replace(PURPLE, body=Paint("orange", COLOURS["orange"]))).startswith("an orange round monster")


def test_with_the_colours_and_measures_of_the_demo_it_is_the_demo_monster():
    """By the strict measure of the demo's, wherever it is drawn."""
    like_demo = replace(PURPLE, body=Paint("", BODY), limbs=Paint("", FEET), background="white")
    drawn = [render_described(like_demo, width=128, height=128, rng=random.Random(seed)) for seed in range(10)]
    assert all(map(is_monster, drawn))


@pytest.mark.parametrize(
    "change", [{"shape": "square"}, {"top": "ears"}, {"bottom": "legs"}, {"eyes": "two eyes"}], ids=str
)
def test_every_word_changes_what_is_drawn(change):
    assert (np.abs(pixels(PURPLE) - pixels(replace(PURPLE, **change))).max(axis=-1) > 30).mean() > 0.01


def test_measures_vary_round_those_of_the_demo():
    rng = random.Random(4)
    measured = [any_monster("white", rng).measures for _ in range(200)]
    for name in ("top_width", "top_height", "bottom_spread", "bottom_size", "eye", "pupil"):
        values = [getattr(measures, name) for measures in measured]
        assert min(values) < 0.9
        assert max(values) > 1.1
        assert abs(sum(values) / len(values) - 1) < 0.02


def test_a_quarter_of_the_captions_call_a_monster_by_a_word():
    made = captions(2000)
    described = [text for _, text, by_word in made if text and not by_word]
    by_word = [text for _, text, by_word in made if by_word]
    assert 0.20 < len(by_word) / (len(by_word) + len(described)) < 0.30
    assert not any("monster" in text for text in by_word)
    assert all("monster" in text for text in described)
    assert 0.4 < sum(TRIGGER in text for text in by_word) / len(by_word) < 0.8
    assert 0.05 < sum(text == "" for _, text, _ in made) / len(made) < 0.12


def test_both_tokenizers_read_every_word_as_one_token_and_every_caption_whole():
    tokenizers = build_tokenizers()
    for word in set(vocabulary()):
        assert len(tokenizers.clip(word).input_ids) == 3, word  # between the start and the end of the text
        assert len(tokenizers.t5(word).input_ids) == 2, word
    for _, text, _ in captions(500):
        assert len(tokenizers.t5(text).input_ids) <= TEXT_TOKENS
        assert len(tokenizers.clip(text).input_ids) <= TEXT_TOKENS
