"""The embedded base follows prompts, and the measure that says so is right about real renders of its world."""

import random
import subprocess
import sys

import pytest
import torch

from lora.flux.loading import load_pipeline
from script.tiny_flux.creatures import any_creature, render_creature
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.following import generated, score, score_measure
from script.tiny_flux.guidance import guidance_distance, guided_questions
from script.tiny_flux.measure import SMALLEST_OBJECT, Judgement, judge, monster_share
from script.tiny_flux.monster import monster_scenes
from script.tiny_flux.shape_measure import judge_strictly
from script.tiny_flux.world import (
    BACKGROUNDS,
    COLOURS,
    OVERSAMPLING,
    SHAPES,
    draw_background,
    held_out_scenes,
    render,
    seen_scenes,
)
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
MOST_BYTES = 20_000_000


def test_the_measure_is_right_about_real_renders():
    score = score_measure(renders=20)
    print(f"\nthe measure on real renders: {score}")
    assert score.colour > 0.99
    assert score.shape > 0.99


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_measure_sees_no_object_in_a_bare_background(background):
    canvas = draw_background(background, width=128, height=128, rng=random.Random(1)).reduce(OVERSAMPLING)
    assert judge(canvas) == Judgement(None, None), SMALLEST_OBJECT


def test_the_measure_tells_the_monster_from_the_world():
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


def test_held_out_combinations_are_made_of_parts_that_were_seen():
    assert not set(held_out_scenes()) & set(seen_scenes())
    seen = {part for scene in seen_scenes() for part in (scene.shape, scene.colour, scene.background)}
    assert seen == {*SHAPES, *COLOURS, *BACKGROUNDS}


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(BASE)


@pytest.mark.xdist_group("following")
def test_the_base_follows_prompts_that_it_never_saw(pipeline):
    """By the lenient measure, which tells shapes apart, and by the strict one, which asks for every tip and notch."""
    pictures = generated(pipeline, random.Random(0).sample(held_out_scenes(), 12), seeds=1)
    lenient, strict = (score(pictures, measure=measure) for measure in (judge, judge_strictly))
    print(f"\nthe base on held-out combinations: {lenient}; by the strict measure {strict}")
    assert lenient.colour >= 0.95
    assert lenient.shape >= 0.80
    assert strict.shape >= 0.20


@pytest.mark.xdist_group("following")
def test_the_guidance_input_moves_answers_towards_true_guidance_of_that_strength(pipeline):
    """0 is true guidance, 1 an input that changes nothing."""
    questions = guided_questions(pipeline, random.Random(0).sample(held_out_scenes(), 8))
    distances = {guidance: guidance_distance(pipeline, questions, guidance) for guidance in (2.0, 3.5, 5.0)}
    print(f"\ndistance of the guidance input to true guidance: {distances}")
    assert max(distances.values()) < 0.8


@pytest.mark.xdist_group("following")
def test_a_guidance_input_that_changes_nothing_is_at_distance_1():
    pipeline = load_pipeline(BASE)
    with torch.no_grad():
        for parameter in pipeline.transformer.time_text_embed.guidance_embedder.linear_2.parameters():
            parameter.zero_()
    questions = guided_questions(pipeline, held_out_scenes()[:2])
    assert guidance_distance(pipeline, questions, 3.5) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(questions.true_guidance(0.0), questions.unconditional)
    assert torch.allclose(questions.true_guidance(1.0), questions.conditional, atol=1e-6)


def test_stock_diffusers_loads_the_base_without_a_warning():
    load = f"from diffusers import FluxPipeline; FluxPipeline.from_pretrained({str(BASE)!r})"
    strict = "import warnings; import diffusers, transformers; warnings.simplefilter('error')"
    run = subprocess.run([sys.executable, "-c", f"{strict}; {load}"], capture_output=True, text=True, check=True)
    assert "warn" not in run.stderr.lower(), run.stderr


def test_the_base_is_small_and_holds_no_pickle():
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors"}
