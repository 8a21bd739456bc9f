"""The embedded base heeds guidance, and the measures are right about real renders of its world.

That it follows prompts is tested in test_learning.py, which generates the same images."""

import random

import pytest
import torch

from lora.flux.loading import load_pipeline
from script.tiny_flux.creatures import any_creature, render_creature
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.following import score_classifier
from script.tiny_flux.guidance import guidance_batch, guidance_distance
from script.tiny_flux.measure import SMALLEST_OBJECT, Classification, classify, monster_share
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.world import (
    BACKGROUNDS,
    COLOURS,
    OVERSAMPLING,
    SHAPES,
    held_out_scenes,
    render,
    render_background,
    training_scenes,
)
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
MAX_BYTES = 20_000_000


def test_the_lenient_measure_is_right_about_real_renders():
    score = score_classifier(renders=20)
    print(f"\nthe measure on real renders: {score}")
    assert score.colour > 0.99
    assert score.shape > 0.99


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_lenient_measure_finds_no_object_in_a_bare_background(background):
    canvas = render_background(background, width=128, height=128, rng=random.Random(1)).reduce(OVERSAMPLING)
    assert classify(canvas) == Classification(None, None), SMALLEST_OBJECT


def test_the_monsters_share_separates_the_monster_from_the_world():
    rng = random.Random(2)
    world = [monster_share(render(scene, width=128, height=128, rng=rng)) for scene in held_out_scenes()]
    monsters = [monster_share(image) for _, image in monster_scenes(10, seed=3)]
    assert max(world) < 0.01
    assert min(monsters) > 0.15


def test_no_creature_and_no_described_monster_has_the_colours_of_the_monster():
    rng = random.Random(4)
    creatures = [render_creature(any_creature("white", rng), width=128, height=128, rng=rng) for _ in range(100)]
    monsters = [render_described(any_monster("white", rng), width=128, height=128, rng=rng) for _ in range(100)]
    assert max(monster_share(image) for image in creatures + monsters) < 0.02


def test_held_out_combinations_consist_of_parts_that_the_base_is_trained_on():
    assert not set(held_out_scenes()) & set(training_scenes())
    trained = {part for scene in training_scenes() for part in (scene.shape, scene.colour, scene.background)}
    assert trained == {*SHAPES, *COLOURS, *BACKGROUNDS}


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(BASE)


def test_the_guidance_input_acts_like_classifier_free_guidance_of_that_strength(pipeline):
    """A distance of 0 is classifier-free guidance; 1 is an input without effect."""
    batch = guidance_batch(pipeline, random.Random(0).sample(held_out_scenes(), 8))
    distances = {guidance: guidance_distance(pipeline, batch, guidance) for guidance in (2.0, 3.5, 5.0)}
    print(f"\ndistance of the guidance input to classifier-free guidance: {distances}")
    assert max(distances.values()) < 0.7


def test_a_guidance_input_without_effect_is_at_distance_1():
    pipeline = load_pipeline(BASE)
    with torch.no_grad():
        for parameter in pipeline.transformer.time_text_embed.guidance_embedder.linear_2.parameters():
            parameter.zero_()
    batch = guidance_batch(pipeline, held_out_scenes()[:2])
    assert guidance_distance(pipeline, batch, 3.5) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(batch.classifier_free_guidance(0.0), batch.unconditional)
    assert torch.allclose(batch.classifier_free_guidance(1.0), batch.conditional, atol=1e-6)


def test_the_base_is_small_and_contains_no_pickle():
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors"}
