"""The embedded base follows prompts, and the measure that says so is right about real renders of its world."""

import random
import subprocess
import sys

import pytest

from lora.flux.loading import load_pipeline
from script.tiny_flux.creatures import any_creature, render_creature
from script.tiny_flux.described_monster import any_monster, render_described
from script.tiny_flux.following import score_base, score_measure
from script.tiny_flux.measure import SMALLEST_OBJECT, Judgement, judge, monster_share
from script.tiny_flux.monster import monster_scenes
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


@pytest.mark.xdist_group("following")
def test_the_base_follows_prompts_that_it_never_saw():
    score = score_base(load_pipeline(BASE), random.Random(0).sample(held_out_scenes(), 12), seeds=1)
    print(f"\nthe base on held-out combinations: {score}")
    assert score.colour >= 0.90
    assert score.shape >= 0.80


def test_stock_diffusers_loads_the_base_without_a_warning():
    load = f"from diffusers import FluxPipeline; FluxPipeline.from_pretrained({str(BASE)!r})"
    strict = "import warnings; import diffusers, transformers; warnings.simplefilter('error')"
    run = subprocess.run([sys.executable, "-c", f"{strict}; {load}"], capture_output=True, text=True, check=True)
    assert "warn" not in run.stderr.lower(), run.stderr


def test_the_base_is_small_and_holds_no_pickle():
    files = [path for path in BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors"}
