"""The strict measure accepts every real monster, and rejects monsters with faults and everything else."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image, ImageFilter, ImageOps

from bench.concepts import CONCEPTS
from script.tiny_flux.creatures import any_creature, render_creature
from script.tiny_flux.monster import BODY, FEET, PARTS, Disc, Part, Polygon, draw_parts, monster_scenes
from script.tiny_flux.monster_measure import inspect_monster, is_monster
from script.tiny_flux.world import BACKGROUNDS, OVERSAMPLING, Colour, all_scenes, render, render_background
from tests.distortions import decoded_again, warped

PURPLE, GREEN = (134, 48, 196), (28, 164, 66)
PATCHES = tuple(
    Polygon("patch", PURPLE, ((sign * 0.4, -0.45), (sign * 0.9, -0.45), (sign * 0.9, 0.4), (sign * 0.4, 0.4)))
    for sign in (-1, 1)
)
HORNS, FEET_NAMES = {"left horn", "right horn"}, {"left foot", "right foot"}


def rendered(
    parts: tuple[Part, ...], background: str, *, size: tuple[int, int], radius: float, seed: int
) -> Image.Image:
    """A figure at a random position inside an image; `radius` is its body's, relative to the shorter side."""
    rng = random.Random(seed)
    canvas = render_background(background, width=size[0], height=size[1], rng=rng)
    radius *= min(canvas.size)
    x = rng.uniform(radius, canvas.width - radius)
    y = rng.uniform(1.35 * radius, canvas.height - 1.32 * radius)
    draw_parts(canvas, parts, centre=(x, y), radius=radius)
    return canvas.resize(size, Image.Resampling.BOX)


def of_parts(*parts: Part) -> list[Image.Image]:
    """The figure of these parts, six times on each background."""
    return [
        rendered(parts, background, size=(128, 128), radius=radius, seed=seed)
        for background in BACKGROUNDS
        for seed, radius in enumerate((0.24, 0.26, 0.27, 0.28, 0.29, 0.31))
    ]


def without(*names: str) -> list[Image.Image]:
    return of_parts(*(part for part in PARTS if part.name not in names))


def recoloured(colours: dict[Colour, Colour]) -> list[Image.Image]:
    return of_parts(*(replace(part, colour=colours.get(part.colour, part.colour)) for part in PARTS))


def faded(names: set[str]) -> list[Image.Image]:
    return [Image.blend(*pair, 0.5) for pair in zip(of_parts(*PARTS), without(*names), strict=True)]


def twice(distance: float) -> list[Image.Image]:
    images = []
    for background in BACKGROUNDS:
        canvas = render_background(background, width=128, height=128, rng=random.Random(0))
        side, radius = canvas.width, 0.23 * canvas.width
        for sign in (-1, 1):
            draw_parts(canvas, PARTS, centre=(side / 2 + sign * distance * radius / 2, side / 2), radius=radius)
        images.append(canvas.reduce(OVERSAMPLING))
    return images


def real() -> list[Image.Image]:
    return [image for _, image in monster_scenes(20, seed=1)]


FAULTS: dict[str, Callable[[], list[Image.Image]]] = {
    "its colours swapped": lambda: recoloured({BODY: FEET, FEET: BODY}),
    "other colours": lambda: recoloured({BODY: PURPLE, FEET: GREEN}),
    "limbs in the colour of the body": lambda: recoloured({FEET: BODY}),
    "patches on its body": lambda: of_parts(*PARTS[:5], *PATCHES, *PARTS[5:]),
    "a small eye": lambda: of_parts(*PARTS[:5], replace(PARTS[5], radius=0.46), PARTS[6]),
    "spots beside it": lambda: of_parts(*PARTS, *(Disc("spot", BODY, (x, 0.0), 0.5) for x in (-1.5, 1.5))),
    "no left foot": lambda: without("left foot"),
    "no right horn": lambda: without("right horn"),
    "no pupil": lambda: without("pupil"),
    "no eye": lambda: without("eye", "pupil"),
    "feet faded half way": lambda: faded(FEET_NAMES),
    "horns faded half way": lambda: faded(HORNS),
    "a blur": lambda: [image.filter(ImageFilter.GaussianBlur(4)) for image in real()],
    "a warp": lambda: [warped(image, amplitude=0.06, seed=seed) for seed, image in enumerate(real())],
    "a second monster beside it": lambda: twice(2.1),
    "a second monster half behind it": lambda: twice(0.9),
    "a shadow of itself": lambda: twice(0.4),
    "its feet upwards": lambda: [ImageOps.flip(image) for image in real()],
    "its horns to the left": lambda: [image.rotate(90) for image in real()],
}


def test_every_real_monster_is_without_faults():
    images = [image for seed in (1, 2, 3) for _, image in monster_scenes(25, seed=seed)]
    assert [fault for image in images for fault in inspect_monster(image).faults()] == []


def test_real_monsters_are_accepted_after_the_autoencoder():
    images = decoded_again([image for _, image in monster_scenes(20, seed=4)])
    assert sum(map(is_monster, images)) >= 0.95 * len(images)


@pytest.mark.parametrize("radius", [0.2, 0.24, 0.28, 0.32, 0.36])
@pytest.mark.parametrize("size", [(96, 96), (128, 128), (256, 256), (192, 96), (96, 192)])
def test_a_monster_of_any_size_at_any_position_is_found(size, radius):
    for seed, background in enumerate(BACKGROUNDS):
        image = rendered(PARTS, background, size=size, radius=radius, seed=seed)
        inspection = inspect_monster(image)
        assert inspection.faults() == []
        assert inspection.fit.radius == pytest.approx(radius * min(size), rel=0.05)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_monster_with_a_fault_is_rejected(fault):
    assert [image for image in FAULTS[fault]() if is_monster(image)] == []


def test_a_disc_in_the_colour_of_the_body_is_rejected():
    assert not any(map(is_monster, of_parts(Disc("body", BODY, (0.0, 0.0), 1.0))))


def test_every_scene_of_the_world_is_rejected():
    rng = random.Random(5)
    assert not any(is_monster(render(scene, width=128, height=128, rng=rng)) for scene in all_scenes())


def test_every_other_figure_is_rejected():
    rng = random.Random(6)
    creatures = [any_creature(background, rng) for background in BACKGROUNDS for _ in range(2)]
    images = [render_creature(creature, width=128, height=128, rng=rng) for creature in creatures for _ in range(4)]
    images += [image for name in ("robot", "fox") for _, image in CONCEPTS[name].images(10, seed=7)]
    assert not any(map(is_monster, images))


def test_a_monster_in_other_colours_is_accepted_if_those_are_expected():
    images = recoloured({BODY: PURPLE, FEET: GREEN})
    assert all(is_monster(image, body=PURPLE, limbs=GREEN) for image in images)
    assert not any(is_monster(image, body=GREEN, limbs=PURPLE) for image in images)


def test_an_inspection_lists_the_faults():
    assert inspect_monster(without("left foot")[0]).faults() == [
        "left foot: 0% has its colour, expected at least 50%",
    ]
