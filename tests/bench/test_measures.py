"""The distances separate the figures, and the statistics separate differences from chance."""

import dataclasses
import math
import random

import pytest
from PIL import Image

from bench.concepts import CONCEPTS, HELD_OUT_SEED
from bench.measures import References, change, colours, paired, rightness
from lora.serving.generation import generate
from script.tiny_flux.following import plain_request
from script.tiny_flux.world import BACKGROUNDS, Scene, held_out_scenes, render
from tests.tiny import tiny_pipeline

figures = pytest.mark.parametrize("name", CONCEPTS)


@pytest.fixture(scope="module")
def references() -> dict[str, References]:
    return {name: References(concept, count=20) for name, concept in CONCEPTS.items()}


@pytest.fixture(scope="module")
def generated_by_the_base() -> list[tuple[str, Image.Image]]:
    pipeline = tiny_pipeline()
    prompts = {name: f"TOK {BACKGROUNDS[name]}" for name in ("white", "meadow")}
    requests = {name: dataclasses.replace(plain_request(text), num_inference_steps=6) for name, text in prompts.items()}
    return [(name, image) for name, request in requests.items() for image in generate(pipeline, request)]


@figures
def test_a_new_render_of_a_figure_is_near(references, name):
    near = _mean_distance(references[name], CONCEPTS[name].images(15, seed=HELD_OUT_SEED))
    assert near["colours"] < 0.03
    assert near["form"] < 0.10


@figures
def test_another_figure_is_far(references, name):
    near = _mean_distance(references[name], CONCEPTS[name].images(10, seed=HELD_OUT_SEED))
    for other in CONCEPTS.keys() - {name}:
        far = _mean_distance(references[name], CONCEPTS[other].images(10, seed=HELD_OUT_SEED))
        assert far["colours"] > 8 * near["colours"]
        assert far["form"] > 2 * near["form"]


@figures
def test_images_of_the_bare_base_are_far(references, generated_by_the_base, name):
    near = _mean_distance(references[name], CONCEPTS[name].images(10, seed=HELD_OUT_SEED))
    far = _mean_distance(references[name], generated_by_the_base)
    assert far["colours"] > 8 * near["colours"]
    assert far["form"] > 1.7 * near["form"]


@figures
def test_a_shape_of_the_world_is_far(references, name):
    rng = random.Random(0)
    scenes = [(ground, render(Scene("star", "blue", ground), width=128, height=128, rng=rng)) for ground in BACKGROUNDS]
    assert _mean_distance(references[name], scenes)["colours"] > 0.15


def test_every_pixel_counts_once_in_the_histogram():
    image = CONCEPTS["fox"].images(1, seed=1)[0][1]
    assert colours(image).sum() == pytest.approx(1)


def test_similar_colours_are_near_even_at_the_border_of_two_cells():
    one, other = (Image.new("RGB", (4, 4), (value, 0, 0)) for value in (76, 77))
    assert abs(colours(one) - colours(other)).sum() / 2 < 0.05


def test_the_change_is_between_0_and_1():
    white, black = (Image.new("RGB", (4, 4), colour) for colour in ("white", "black"))
    assert change(white, white) == 0
    assert change(white, black) == 1


def test_real_renders_are_right_and_those_of_other_scenes_wrong():
    rng, scenes = random.Random(1), held_out_scenes()[:8]
    renders = [render(scene, width=128, height=128, rng=rng) for scene in scenes]
    found = rightness(list(zip(scenes, renders, strict=True)))
    assert found == {name: [1.0] * 8 for name in ("right_colour", "right_shape", "exact_shape")}
    wrong = rightness([(_unlike(scene), image) for scene, image in zip(scenes, renders, strict=True)])
    assert wrong == {name: [0.0] * 8 for name in found}


def test_images_are_paired_whatever_the_differences_between_them():
    theirs = {("fox", 1): [10.0, 20.0, 30.0], ("fox", 2): [11.0, 22.0, 33.0]}
    ours = {run: [value + 1 for value in values] for run, values in theirs.items()}
    found = paired(ours, theirs)
    assert (found.mean, found.error, found.conclusion()) == (1.0, 0.0, "higher")
    assert paired(theirs, ours).conclusion() == "lower"


def test_the_errors_follow_the_textbook_formula():
    found = paired({1: [1.0, 3.0], 2: [5.0, 7.0]}, {1: [0.0, 0.0], 2: [0.0, 0.0]})
    assert found.mean == 4.0
    assert found.error_by_image == pytest.approx(math.sqrt(20 / 3) / 2)
    assert found.error_by_run == pytest.approx(math.sqrt(8) / math.sqrt(2))


def test_many_images_of_few_runs_have_the_error_of_the_runs():
    found = paired({1: [4.0] * 50, 2: [0.5] * 50}, {1: [0.0] * 50, 2: [0.0] * 50})
    assert found.error == found.error_by_run > 5 * found.error_by_image
    assert found.conclusion() == "no difference beyond two standard errors"


def test_a_difference_of_one_run_is_not_significant():
    assert paired({1: [5.0, 5.1]}, {1: [0.0, 0.0]}).conclusion() == "too few runs for a conclusion"


def test_only_runs_that_both_have_are_compared():
    assert paired({1: [1.0], 2: [2.0], 3: [9.0]}, {1: [0.0], 2: [0.0]}).mean == 1.5


def _mean_distance(references: References, images: list[tuple[str, Image.Image]]) -> dict[str, float]:
    found = [references.distance(image, background=name) for name, image in images]
    return {
        "colours": sum(each.colours for each in found) / len(found),
        "form": sum(each.form for each in found) / len(found),
    }


def _unlike(scene: Scene) -> Scene:
    """A scene of another shape in another colour."""
    shape = "star" if scene.shape == "circle" else "circle"
    return Scene(shape, "blue" if scene.colour == "red" else "red", scene.background)
