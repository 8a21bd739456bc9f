"""What the learning benchmark teaches is measured on scenes that no training shows, and its measures tell right images
from wrong ones."""

import random

import pytest

from bench.captioned_things import COLLECTIONS, FIGURES, GROUNDS, OUTLINES, caption_thing, render_thing
from bench.learning import LEARNED
from bench.tasks import TASKS, spread
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES, Scene, render

REFERENCES = 12
tasks = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
collections = pytest.mark.parametrize("collection", COLLECTIONS.values(), ids=list(COLLECTIONS))


@tasks
def test_no_scene_is_shown_and_measured(task):
    assert not set(task.shown) & set(task.new)
    assert len(task.shown) == 18
    assert len({task.prompt(scene) for scene in task.new}) == len(task.new)


@tasks
def test_what_is_asked_for_is_found_on_real_renders_and_not_on_others(task):
    rng, scenes = random.Random(8), spread(task.new, 4)
    right = [task.measure(scene, task.render(scene, rng), REFERENCES)["asked"] for scene in scenes]
    assert right == [1.0] * len(scenes)
    others = [task.render(scene, rng) for scene in (*scenes[1:], scenes[0])]
    wrong = [task.measure(scene, image, REFERENCES)["asked"] for scene, image in zip(scenes, others, strict=True)]
    assert wrong == [0.0] * len(scenes)


@collections
def test_what_the_base_knows_is_no_new_thing(collection):
    rng, task = random.Random(9), TASKS[collection.name]
    plain = [render(Scene("star", "blue", ground), width=128, height=128, rng=rng) for ground in BACKGROUNDS]
    scenes = spread(task.new, len(plain))
    assert not any(task.measure(s, image, REFERENCES)["asked"] for s, image in zip(scenes, plain, strict=True))


@collections
def test_each_thing_is_shown_and_measured_in_several_scenes(collection):
    new_things = {"figures": FIGURES, "shapes": OUTLINES, "grounds": GROUNDS}[collection.name]
    for scenes in (collection.shown, collection.new):
        found = [getattr(scene, collection.part) for scene in scenes]
        assert set(found) == set(new_things)
        assert min(map(found.count, new_things)) >= 2


def test_captions_name_the_things():
    assert caption_thing(Scene("kesi", "", "meadow")) == "a kesi in a meadow"
    assert caption_thing(Scene("cross", "orange", "sea")) == "an orange cross by the sea"


@pytest.mark.parametrize("style", LEARNED["style"])
def test_the_images_without_the_trigger_word_are_on_the_grounds_of_the_style(style):
    task = TASKS[style]
    assert {scene.background for scene in task.without} == {scene.background for scene in task.shown}
    assert all("TOK" in task.prompt(scene) for scene in task.new)


def test_a_few_of_many_scenes_are_spread_evenly():
    scenes = tuple(Scene(shape, colour, "white") for shape in SHAPES for colour in COLOURS)
    assert [scenes.index(scene) for scene in spread(scenes, 5)] == [0, 6, 12, 18, 24]
    assert spread(scenes, 100) == scenes


def test_a_new_thing_is_drawn_anew_each_time_and_the_same_for_a_seed():
    scene = COLLECTIONS["grounds"].shown[0]
    one, other = random.Random(1), random.Random(1)
    assert render_thing(scene, one).tobytes() == render_thing(scene, other).tobytes()
    assert render_thing(scene, one).tobytes() != render_thing(scene, random.Random(1)).tobytes()
