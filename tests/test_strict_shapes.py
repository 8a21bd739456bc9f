"""The strict measure recognizes the shapes of the world, and rejects similar ones."""

import math
import random
from collections.abc import Callable
from unittest import mock

import pytest
from PIL import Image, ImageFilter

from script.tiny_flux.following import score_classifier
from script.tiny_flux.measure import Classification, classify
from script.tiny_flux.shape_measure import classify_strictly, inspect_shape
from script.tiny_flux.world import (
    BACKGROUNDS,
    COLOURS,
    OVERSAMPLING,
    SHAPES,
    UNIT_OUTLINES,
    Scene,
    all_scenes,
    render,
    render_background,
)
from tests.distortions import decoded_again, warped

MIN_REJECTED = 0.95
Outline = list[tuple[float, float]]


def rendered(scenes: list[Scene], *, side: int = 128, seed: int) -> list[Image.Image]:
    rng = random.Random(seed)
    return [render(scene, width=side, height=side, rng=rng) for scene in scenes]


def share_recognized(images: list[Image.Image], scenes: list[Scene]) -> float:
    """The share of images whose shape and colour are those of their scenes."""
    expected = [Classification(scene.colour, scene.shape) for scene in scenes]
    return sum(map(Classification.__eq__, map(classify_strictly, images), expected)) / len(scenes)


def of_shape(shape: str) -> list[Scene]:
    """Scenes of a shape in each colour, on two backgrounds each."""
    names = list(BACKGROUNDS)
    pairs = [(colour, names[(index + turn) % 5]) for index, colour in enumerate(COLOURS) for turn in (0, 2)]
    return [Scene(shape, colour, background) for colour, background in pairs]


def share_rejected(shape: str, images: list[Image.Image]) -> float:
    return sum(classify_strictly(image).shape != shape for image in images) / len(images)


def of_outline(shape: str, outline: Outline) -> list[Image.Image]:
    with mock.patch.dict(UNIT_OUTLINES, {shape: outline}):
        return rendered(of_shape(shape), seed=3)


def scaled(shape: str, x: float, y: float) -> Outline:
    return [(a * x, b * y) for a, b in UNIT_OUTLINES[shape]]


def turned(shape: str, degrees: float) -> Outline:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x * cosine - y * sine, x * sine + y * cosine) for x, y in UNIT_OUTLINES[shape]]


def limited(shape: str, *, top: float = -2.0, bottom: float = 2.0) -> Outline:
    """An outline without what lies above `top` or below `bottom`."""
    return [(x, min(max(y, top), bottom)) for x, y in UNIT_OUTLINES[shape]]


def with_corners(shape: str, corners: dict[int, tuple[float, float]]) -> Outline:
    return [corners.get(index, corner) for index, corner in enumerate(UNIT_OUTLINES[shape])]


def star(tips: Callable[[int], tuple[float, float]], *, notches: float = 0.46) -> Outline:
    """The world's star, with the length of each arm and its rotation in degrees from `tips`."""
    spokes = [(*tips(index // 2), index) if index % 2 == 0 else (notches, 0.0, index) for index in range(10)]
    angles = [(length, math.tau * (index / 10 - 0.25) + math.radians(bent)) for length, bent, index in spokes]
    return [(length * math.cos(angle), length * math.sin(angle) + 0.08) for length, angle in angles]


def polygon(corners: int) -> Outline:
    return [(math.cos(math.tau * i / corners), math.sin(math.tau * i / corners)) for i in range(corners)]


DENT, BUMP = ([(-0.25, -0.88), (0.0, y), (0.25, -0.88)] for y in (-0.5, -1.3))  # in the upper side of the square
FAULTS: dict[str, tuple[str, Outline]] = {
    "a circle that is an ellipse": ("circle", scaled("circle", 1.0, 0.82)),
    "a circle that is a hexagon": ("circle", polygon(6)),
    "a circle with a flat top": ("circle", limited("circle", top=-0.7)),
    "a square that is a rectangle": ("square", scaled("square", 1.0, 0.78)),
    "a square on its corner": ("square", turned("square", 45)),
    "a square with a missing corner": ("square", [*UNIT_OUTLINES["square"][:3], (-0.88, 0.2), (-0.2, 0.88)]),
    "a square that leans": ("square", [(x + 0.3 * y, y) for x, y in UNIT_OUTLINES["square"]]),
    "a square with a dent": ("square", [UNIT_OUTLINES["square"][0], *DENT, *UNIT_OUTLINES["square"][1:]]),
    "a square with a bump": ("square", [UNIT_OUTLINES["square"][0], *BUMP, *UNIT_OUTLINES["square"][1:]]),
    "a triangle without its top": ("triangle", [(-0.3, -0.5), (0.3, -0.5), *UNIT_OUTLINES["triangle"][1:]]),
    "a triangle without a corner": ("triangle", with_corners("triangle", {1: (0.5, 0.84)})),
    "a triangle on its top": ("triangle", scaled("triangle", 1.0, -1.0)),
    "a star with a short arm": ("star", star(lambda arm: (0.75 if arm == 1 else 1.12, 0))),
    "a star without an arm": ("star", star(lambda arm: (0.4 if arm == 0 else 1.12, 0))),
    "a star without points": ("star", star(lambda _: (0.7, 0))),
    "a star with bent arms": ("star", star(lambda _: (1.12, 22))),
    "a star with one bent arm": ("star", star(lambda arm: (1.12, 25 if arm == 2 else 0))),
    "a star with a point down": ("star", scaled("star", 1.0, -1.0)),
    "a star with fat arms": ("star", star(lambda _: (1.12, 0), notches=0.66)),
    "a star that is stretched": ("star", scaled("star", 1.15, 0.85)),
    "a heart with a melted notch": ("heart", [(x, y) for x, y in UNIT_OUTLINES["heart"] if abs(x) > 0.4 or y > 0]),
    "a heart with a flat top": ("heart", limited("heart", top=-0.55)),
    "a heart without its tip": ("heart", limited("heart", bottom=0.6)),
    "a heart upside down": ("heart", scaled("heart", 1.0, -1.0)),
}


def test_every_real_render_is_recognized():
    scenes = all_scenes()
    assert share_recognized(rendered(scenes, seed=1), scenes) > 0.99
    assert score_classifier(renders=2, classifier=classify_strictly).shape > 0.99


def test_real_renders_are_recognized_after_the_autoencoder():
    scenes = all_scenes()[::7]
    assert share_recognized(decoded_again(rendered(scenes, seed=2)), scenes) >= 0.97


@pytest.mark.parametrize("side", [96, 192, 256])
def test_a_render_of_another_size_is_recognized(side):
    scenes = all_scenes()[::5]
    assert share_recognized(rendered(scenes, side=side, seed=4), scenes) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shape_with_a_fault_is_rejected(fault):
    shape, outline = FAULTS[fault]
    assert share_rejected(shape, of_outline(shape, outline)) >= MIN_REJECTED


@pytest.mark.parametrize("shape", SHAPES)
def test_a_warped_shape_is_rejected(shape):
    images = [image for seed in (5, 6) for image in rendered(of_shape(shape), seed=seed)]
    distorted = [warped(image, amplitude=0.07, seed=seed) for seed, image in enumerate(images)]
    assert share_rejected(shape, distorted) >= MIN_REJECTED


@pytest.mark.parametrize("shape", SHAPES)
def test_a_blurred_shape_is_rejected(shape):
    blurred = [image.filter(ImageFilter.GaussianBlur(11)) for image in rendered(of_shape(shape), seed=7)]
    assert share_rejected(shape, blurred) >= MIN_REJECTED


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_with_a_second_object_is_rejected(shape):
    spot = Image.new("RGB", (32, 32), COLOURS["red"])
    images = rendered([Scene(shape, "red", background) for background in BACKGROUNDS], seed=8)
    for image in images:
        image.paste(spot, (0, 0))
    assert share_rejected(shape, images) == 1


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_no_object_is_found_in_a_bare_background(background):
    canvas = render_background(background, width=128, height=128, rng=random.Random(1)).reduce(OVERSAMPLING)
    assert inspect_shape(canvas) is None
    assert classify_strictly(canvas) == Classification(None, None)


def test_the_colour_is_that_of_the_lenient_measure():
    image = of_outline("heart", scaled("heart", 1.0, -1.0))[0]
    assert classify_strictly(image) == Classification(classify(image).colour, None)


def test_an_inspection_lists_the_faults():
    image = of_outline("star", star(lambda arm: (0.75 if arm == 1 else 1.12, 0)))[0]
    inspection = inspect_shape(image)
    assert inspection is not None
    assert "tip 2 is missing" in inspection.faults()
