"""The figures of the learning benchmark are rendered anew each time, but always the same for a seed."""

import numpy as np
import pytest

from bench.concepts import CONCEPTS, HELD_OUT_SEED, REFERENCE_SEED, TRAINING_SEED
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import BACKGROUNDS

figures = pytest.mark.parametrize("concept", CONCEPTS.values(), ids=list(CONCEPTS))


@figures
def test_a_seed_always_gives_the_same_images(concept):
    one, other = (concept.images(3, seed=TRAINING_SEED) for _ in range(2))
    assert [image.tobytes() for _, image in one] == [image.tobytes() for _, image in other]


@figures
def test_images_for_training_validation_and_reference_are_all_different(concept):
    seeds = (TRAINING_SEED, HELD_OUT_SEED, REFERENCE_SEED)
    images = [image.tobytes() for seed in seeds for _, image in concept.images(15, seed=seed)]
    assert len(set(images)) == len(images)


@figures
def test_each_background_of_the_world_is_shown(concept):
    images = concept.images(len(BACKGROUNDS), seed=TRAINING_SEED)
    assert [name for name, _ in images] == list(BACKGROUNDS)
    assert {image.size for _, image in images} == {(128, 128)}


@pytest.mark.parametrize("name", ["robot", "fox"])
def test_the_figure_stays_within_its_image(name):
    for _, image in CONCEPTS[name].images(500, seed=HELD_OUT_SEED)[:: len(BACKGROUNDS)]:
        pixels = np.asarray(image)  # on white, so that the edges show whether the figure is cut off
        assert all((edge == 246).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_the_monster_is_the_one_of_the_demo():
    ours, theirs = CONCEPTS["monster"].images(15, seed=7), monster_scenes(15, seed=7)
    assert [image.tobytes() for _, image in ours] == [image.tobytes() for _, image in theirs]
