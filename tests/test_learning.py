"""Trainings on the bundled zip really learn, and are worn as strongly as asked: on the trained tiny base.

Two strengths. A gentle training learns beyond chance and leaves the world as it was. The demo's learns what can be
seen, and takes some of the world's colours with it: how much is held here too.
"""

import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from lora.flux.holding import Held, load_transformer
from lora.flux.layouts.canonical import canonical
from lora.flux.loading import load_encoders, load_pipeline
from lora.serving.drawing import draw
from lora.serving.wardrobe import Wardrobe, Worn
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.validation import hold_out
from lora.training.recipe.recipe import choose
from script.demo import PROMPTS, TRAINING
from script.tiny_flux import learning
from script.tiny_flux.following import Score, plain_request, score_base
from script.tiny_flux.measure import monster_share
from script.tiny_flux.monster import ARCHIVE, TRAINING_IMAGES, write_archive
from script.tiny_flux.world import held_out_scenes
from tests.tiny import all_layers, checked_config, found_in, trained
from weights.bases import WEIGHTS

pytestmark = pytest.mark.xdist_group("learning")
BASE = WEIGHTS / "tiny-flux"
CPU = torch.device("cpu")
SCALES = (0.0, 0.5, 1.0)
SCENES = random.Random(0).sample(held_out_scenes(), 12)  # every shape, colour and place is among them
GENTLE = {"steps": 30, "learning_rate": 5e-4, "batch_size": 4}


@dataclass(frozen=True)
class Lesson:
    """A training on the bundled zip, with the losses before and after."""

    tensors: dict[str, torch.Tensor]
    monster: tuple[learning.Losses, learning.Losses]
    world: tuple[learning.Losses, learning.Losses]

    def share_closed(self) -> float:
        """How much of the way from the base's loss on the concept to that on its own world is gone."""
        before, after = self.monster
        return (before.mean - after.mean) / (before.mean - self.world[0].mean)

    def world_rise(self) -> float:
        """The loss on the world after the training, over that before."""
        return self.world[1].mean / self.world[0].mean


def taught(folder: Path, **changes: object) -> Lesson:
    """The demo's training, or one like it."""
    encoders, transformer = load_encoders(BASE, on=CPU), load_transformer(BASE, Held("fp32", False, CPU))
    config = checked_config(**{**TRAINING, **changes})
    recipe = choose(config, images=TRAINING_IMAGES, processes=1).recipe
    dataset = found_in(ARCHIVE, into=folder, resolutions=config.resolutions, views=recipe.views).encoded(encoders)
    monsters, world = learning.monsters(encoders), learning.world(encoders)
    before = learning.losses(transformer, monsters), learning.losses(transformer, world)
    add_lora(transformer, layers=all_layers(transformer), rank=recipe.lora_rank, seed=recipe.seed)
    trained(transformer, recipe, hold_out(dataset, seed=recipe.seed).trained)
    after = learning.losses(transformer, monsters), learning.losses(transformer, world)
    return Lesson(lora_tensors(transformer), (before[0], after[0]), (before[1], after[1]))


@pytest.fixture(scope="module")
def gentle(tmp_path_factory) -> Lesson:
    return taught(tmp_path_factory.mktemp("gentle"), **GENTLE)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> Lesson:
    return taught(tmp_path_factory.mktemp("lesson"))


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return load_pipeline(BASE)


@pytest.fixture(scope="module")
def wardrobe(pipeline) -> Wardrobe:
    return Wardrobe(pipeline)


@pytest.fixture(scope="module")
def bare(pipeline, wardrobe) -> Score:
    """How it does without any."""
    wardrobe.wear([])
    score = score_base(pipeline, SCENES, seeds=1)
    print(f"\nwithout a LoRA {score}")
    return score


def test_the_loss_on_new_pictures_of_the_concept_falls_while_that_on_the_world_hardly_rises(gentle):
    before, after = gentle.monster
    fall, error = before.fall_to(after)
    print(f"\ngentle: {gentle.share_closed():.1%} of the gap closed, world x{gentle.world_rise():.3f}")
    assert fall > 3 * error
    assert gentle.world_rise() < 1.05


def test_the_demo_closes_a_good_part_of_the_gap(lesson):
    before, after = lesson.monster
    fall, error = before.fall_to(after)
    print(f"\ndemo: {lesson.share_closed():.1%} of the gap closed, world x{lesson.world_rise():.3f}")
    assert fall > 3 * error
    assert lesson.share_closed() > 0.2


def test_the_concept_appears_as_strongly_as_asked(lesson, pipeline, wardrobe):
    with_trigger = [prompt for prompt in PROMPTS if "TOK" in prompt]
    shares = [_monster_share(pipeline, wardrobe, lesson, with_trigger, scale) for scale in SCALES]
    print(f"\nshare of the picture in the monster's colours at {SCALES}: {shares}")
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.25 * shares[2]


def test_prompts_without_the_trigger_keep_following_the_world(gentle, bare, pipeline, wardrobe):
    worn = _score_with(gentle, pipeline, wardrobe)
    assert worn.colour >= bare.colour - 0.1
    assert worn.shape >= bare.shape - 0.1


def test_the_demo_leaves_at_least_half_of_what_prompts_without_the_trigger_ask_for(lesson, bare, pipeline, wardrobe):
    worn = _score_with(lesson, pipeline, wardrobe)
    assert worn.colour >= bare.colour - 0.5
    assert worn.shape >= bare.shape - 0.4


def _score_with(lesson: Lesson, pipeline: FluxPipeline, wardrobe: Wardrobe) -> Score:
    """How the base follows combinations that it never saw, wearing a lesson at scale 1."""
    _wear(wardrobe, lesson, 1.0)
    worn = score_base(pipeline, SCENES, seeds=1)
    print(f"\nwith the LoRA {worn}")
    return worn


def _wear(wardrobe: Wardrobe, lesson: Lesson, scale: float) -> None:
    wardrobe.wear([Worn(f"lesson{id(lesson)}", canonical(lesson.tensors), scale, "lora_weights")])


def _monster_share(
    pipeline: FluxPipeline, wardrobe: Wardrobe, lesson: Lesson, prompts: list[str], scale: float
) -> float:
    _wear(wardrobe, lesson, scale)
    images = [image for prompt in prompts for image in draw(pipeline, plain_request(prompt, count=3))]
    return sum(monster_share(image) for image in images) / len(images)


def test_the_zip_is_what_its_source_makes(tmp_path: Path):
    write_archive(tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as again, zipfile.ZipFile(ARCHIVE) as bundled:
        assert [(i.filename, i.CRC) for i in again.infolist()] == [(i.filename, i.CRC) for i in bundled.infolist()]
