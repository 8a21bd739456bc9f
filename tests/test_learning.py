"""Trainings on the bundled zip really learn, and LoRAs are applied as strongly as asked: on the trained tiny base.

Two strengths. A gentle training learns beyond chance, without preservation, and leaves the world as it was. The demo's
teaches the monster itself, as a strict measure sees it, and preservation leaves the world as it was.
"""

import random
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from lora.flux.frozen_transformer import WeightPlacement, load_transformer
from lora.flux.loading import load_encoders, load_pipeline
from lora.formats.reading import convert_lora
from lora.serving.generation import generate
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.batches import NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.preservation import NeutralImages, Preservation
from lora.training.learning.validation import hold_out
from lora.training.progress import Log
from lora.training.recipe.neutral import neutral_prompts, neutral_side
from lora.training.recipe.recipe import choose
from lora.training.stop import Stop, Termination
from script.demo import TRAINING, WITH_TRIGGER
from script.tiny_flux import learning
from script.tiny_flux.following import Score, plain_request, score_base
from script.tiny_flux.measure import monster_share
from script.tiny_flux.monster import ARCHIVE, TRAINING_IMAGES, write_archive
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.world import held_out_scenes
from tests.tiny import SHIFT, all_layers, checked_config, read_archive, trained
from weights.bases import WEIGHTS

pytestmark = pytest.mark.xdist_group("learning")
BASE = WEIGHTS / "tiny-flux"
CPU = torch.device("cpu")
SCALES = (0.0, 0.5, 1.0)
IMAGES = 4  # of a prompt
SCENES = random.Random(0).sample(held_out_scenes(), 12)  # every shape, colour and place is among them
GENTLE = {"lora_type": "subject", "steps": 30, "learning_rate": 5e-4, "lr_scheduler": "constant", "preservation": 0.0}


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
    encoders, transformer = load_encoders(BASE, on=CPU), load_transformer(BASE, WeightPlacement("fp32", False, CPU))
    config = checked_config(**{**TRAINING, **changes})
    recipe = choose(config, images=TRAINING_IMAGES, processes=1).recipe
    found = read_archive(ARCHIVE, into=folder, resolutions=config.resolutions, crops=recipe.views)
    dataset = replace(found, neutral_prompts=neutral_prompts(BASE)).encoded(encoders)
    monsters, world = learning.monsters(encoders), learning.world(encoders)
    before = learning.losses(transformer, monsters), learning.losses(transformer, world)
    add_lora(transformer, layers=all_layers(transformer), rank=recipe.lora_rank, seed=recipe.seed)
    trained(
        transformer, recipe, hold_out(dataset, seed=recipe.seed).train, preservation_by(dataset, transformer, recipe)
    )
    after = learning.losses(transformer, monsters), learning.losses(transformer, world)
    return Lesson(lora_tensors(transformer), (before[0], after[0]), (before[1], after[1]))


def preservation_by(dataset, transformer, recipe) -> Preservation | None:
    """As a training has it: by images that the base generates of its own neutral prompts."""
    if not recipe.preservation:
        return None
    images = NeutralImages(BASE, dataset.neutral, neutral_side((128,)))
    draws = NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT)
    preservation = Preservation(transformer, recipe, draws, images)
    assert preservation.generate(SingleProcess(), stop=Stop(Log(lambda *_: None), Termination(), minutes=None))
    return preservation


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
def merger(pipeline) -> LoraMerger:
    return LoraMerger(pipeline)


@pytest.fixture(scope="module")
def bare(pipeline, merger) -> Score:
    """How it does without any."""
    merger.apply([])
    score = score_base(pipeline, SCENES, seeds=1)
    print(f"\nwithout a LoRA {score}")
    return score


def test_the_loss_on_new_pictures_of_the_concept_falls_while_that_on_the_world_hardly_rises(gentle):
    before, after = gentle.monster
    fall, error = before.fall_to(after)
    print(f"\ngentle: {gentle.share_closed():.1%} of the gap closed, world x{gentle.world_rise():.3f}")
    assert fall > 3 * error
    assert gentle.world_rise() < 1.05


def test_the_demo_closes_most_of_the_gap(lesson):
    before, after = lesson.monster
    fall, error = before.fall_to(after)
    print(f"\ndemo: {lesson.share_closed():.1%} of the gap closed, world x{lesson.world_rise():.3f}")
    assert fall > 3 * error
    assert lesson.share_closed() > 0.8


def test_the_concept_appears_as_strongly_as_asked(lesson, pipeline, merger):
    shares = [_monster_share(pipeline, merger, lesson, list(WITH_TRIGGER), scale) for scale in SCALES]
    print(f"\nshare of the picture in the monster's colours at {SCALES}: {shares}")
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.25 * shares[2]


def test_prompts_without_the_trigger_keep_following_the_world(gentle, bare, pipeline, merger):
    worn = _score_with(gentle, pipeline, merger)
    assert worn.colour >= bare.colour - 0.1
    assert worn.shape >= bare.shape - 0.1


def test_the_demo_leaves_prompts_without_the_trigger_as_they_were(lesson, bare, pipeline, merger):
    applied = _score_with(lesson, pipeline, merger)
    assert applied.colour >= bare.colour - 0.1
    assert applied.shape >= bare.shape - 0.1


def test_the_demo_teaches_the_whole_monster_and_the_base_has_none(lesson, pipeline, merger):
    """By the strict measure, which a smear, pale feet or a horn that is missing fail."""
    right = {scale: _monsters(pipeline, merger, lesson, scale) for scale in (0.0, 1.0)}
    print(f"\nwhole monsters among {IMAGES * len(WITH_TRIGGER)} at lora_scale 0 and 1: {right}")
    assert right[0.0] == 0
    assert right[1.0] >= 0.75 * IMAGES * len(WITH_TRIGGER)


def _monsters(pipeline: FluxPipeline, merger: LoraMerger, lesson: Lesson, scale: float) -> int:
    """How many of the images with the trigger show it."""
    _wear(merger, lesson, scale)
    requests = [plain_request(prompt, count=IMAGES) for prompt in WITH_TRIGGER]
    return sum(is_monster(image) for request in requests for image in generate(pipeline, request))


def _score_with(lesson: Lesson, pipeline: FluxPipeline, merger: LoraMerger) -> Score:
    """How the base follows combinations that it never saw, wearing a lesson at scale 1."""
    _wear(merger, lesson, 1.0)
    worn = score_base(pipeline, SCENES, seeds=1)
    print(f"\nwith the LoRA {worn}")
    return worn


def _wear(merger: LoraMerger, lesson: Lesson, scale: float) -> None:
    merger.apply([AppliedLora(f"lesson{id(lesson)}", convert_lora(lesson.tensors), scale, "lora_weights")])


def _monster_share(
    pipeline: FluxPipeline, merger: LoraMerger, lesson: Lesson, prompts: list[str], scale: float
) -> float:
    _wear(merger, lesson, scale)
    images = [image for prompt in prompts for image in generate(pipeline, plain_request(prompt, count=3))]
    return sum(monster_share(image) for image in images) / len(images)


def test_the_zip_is_what_its_source_makes(tmp_path: Path):
    write_archive(tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as again, zipfile.ZipFile(ARCHIVE) as bundled:
        assert [(i.filename, i.CRC) for i in again.infolist()] == [(i.filename, i.CRC) for i in bundled.infolist()]
