"""A style is recognized on renders that have it, of every shape and colour, and on no others; what they show, too."""

import functools
import random

import pytest
from PIL import Image

from bench.style_measures import STYLE_MEASURES
from bench.styles import GROUNDS, NEW_SHAPES, SHOWN_SHAPES, STYLES, new_scenes, render_styled, shown_scenes
from script.tiny_flux.measure import Classification
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES, Scene, all_scenes, render
from tests.distortions import decoded_again

styles = pytest.mark.parametrize("style", STYLES)
OF_EVERY_SHAPE = [
    Scene(shape, colour, ground) for shape in SHAPES for colour, ground in zip(COLOURS, GROUNDS * 2, strict=True)
]


@functools.cache
def styled(style: str) -> list[Image.Image]:
    """A render of each of `OF_EVERY_SHAPE` in a style."""
    rng = random.Random(5)
    return [render_styled(style, scene, rng) for scene in OF_EVERY_SHAPE]


@functools.cache
def plain() -> list[Image.Image]:
    """Renders of the world, of every shape, colour and background."""
    rng = random.Random(6)
    return [render(scene, width=128, height=128, rng=rng) for scene in all_scenes()[::3]]


@styles
def test_every_render_in_a_style_has_it(style):
    found = list(map(STYLE_MEASURES[style].has_style, styled(style)))
    assert [scene for scene, has_style in zip(OF_EVERY_SHAPE, found, strict=True) if not has_style] == []


@styles
def test_no_render_of_the_world_has_a_style_on_any_background(style):
    assert not any(map(STYLE_MEASURES[style].has_style, plain()))


@styles
def test_a_style_is_not_taken_for_another_one(style):
    others = [image for other in STYLES if other != style for image in styled(other)[::3]]
    assert not any(map(STYLE_MEASURES[style].has_style, others))


@styles
def test_the_colour_and_the_shape_of_a_render_in_a_style_are_recognized(style):
    found = [STYLE_MEASURES[style].classify(image) for image in styled(style)]
    assert found == [Classification(scene.colour, scene.shape) for scene in OF_EVERY_SHAPE]


@styles
def test_the_measures_hold_after_the_autoencoder_of_the_base(style):
    scenes, measure = OF_EVERY_SHAPE[::7], STYLE_MEASURES[style]
    images = decoded_again(styled(style)[::7])
    assert [measure.has_style(image) for image in images] == [True] * len(scenes)
    assert [measure.classify(image) for image in images] == [Classification(s.colour, s.shape) for s in scenes]
    assert not any(map(measure.has_style, decoded_again(plain()[::10])))


@pytest.mark.parametrize("ground", BACKGROUNDS)
@styles
def test_an_image_without_an_object_has_no_style(style, ground):
    colour = {"black": (16, 16, 18), "night": (24, 28, 60)}.get(ground, (246, 246, 246))
    assert not STYLE_MEASURES[style].has_style(Image.new("RGB", (128, 128), colour))


@styles
def test_a_seed_always_gives_the_same_images_in_a_style(style):
    one, other = (render_styled(style, new_scenes()[0], random.Random(1)) for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_a_style_is_shown_on_three_shapes_and_measured_on_the_other_two_in_every_colour():
    assert {scene.shape for scene in shown_scenes()} == set(SHOWN_SHAPES) == set(SHAPES) - set(NEW_SHAPES)
    for scenes, shapes in ((shown_scenes(), SHOWN_SHAPES), (new_scenes(), NEW_SHAPES)):
        assert {(scene.shape, scene.colour) for scene in scenes} == {(s, c) for s in shapes for c in COLOURS}
        assert {scene.background for scene in scenes} == set(GROUNDS)
