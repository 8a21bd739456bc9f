"""The figures of the learning benchmark are drawn afresh, but not by chance."""

import numpy as np
import pytest

from bench.concepts import CONCEPTS, HELD_OUT_SEED, REFERENCE_SEED, TRAINING_SEED
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import BACKGROUNDS

figures = pytest.mark.parametrize("concept", CONCEPTS.values(), ids=list(CONCEPTS))


@figures
def test_a_seed_always_draws_the_same_pictures(concept):
    one, other = (concept.pictures(3, seed=TRAINING_SEED) for _ in range(2))
    assert [image.tobytes() for _, image in one] == [image.tobytes() for _, image in other]


@figures
def test_pictures_for_training_for_judging_and_for_comparing_have_none_in_common(concept):
    seeds = (TRAINING_SEED, HELD_OUT_SEED, REFERENCE_SEED)
    pictures = [image.tobytes() for seed in seeds for _, image in concept.pictures(15, seed=seed)]
    assert len(set(pictures)) == len(pictures)


@figures
def test_each_background_of_the_world_is_shown(concept):
    pictures = concept.pictures(len(BACKGROUNDS), seed=TRAINING_SEED)
    assert [name for name, _ in pictures] == list(BACKGROUNDS)
    assert {image.size for _, image in pictures} == {(128, 128)}


@pytest.mark.parametrize("name", ["robot", "fox"])
def test_the_figure_stays_within_its_picture(name):
    for _, image in CONCEPTS[name].pictures(500, seed=HELD_OUT_SEED)[:: len(BACKGROUNDS)]:
        pixels = np.asarray(image)  # before white, so that the edges show it if the figure is cut off
        assert all((edge == 246).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_the_monster_is_the_one_of_the_demo():
    ours, theirs = CONCEPTS["monster"].pictures(15, seed=7), monster_scenes(15, seed=7)
    assert [image.tobytes() for _, image in ours] == [image.tobytes() for _, image in theirs]
