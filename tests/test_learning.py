"""Trainings on the bundled zip learn, and LoRAs are applied at the requested strength, on the trained tiny base.

There are two trainings. The gentle one has no preservation: it learns more than chance, and the world hardly changes.
The demo's learns the monster by the strict measure, and preservation keeps the world.
"""

import random
import statistics
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image

from lora.dataset.encoding import Example
from lora.engine.lora_layers import fuse_lora
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
from lora.training.recipe.recipe import make_recipe
from lora.training.stop import Stop, Termination
from script.demo import TRAINING, WITH_TRIGGER
from script.tiny_flux import learning
from script.tiny_flux.following import SceneImages, Score, generated, plain_request, score, score_base
from script.tiny_flux.measure import classify, monster_share
from script.tiny_flux.monster import ARCHIVE, TRAINING_IMAGES, write_archive
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.shape_measure import classify_strictly
from script.tiny_flux.world import held_out_scenes
from tests.tiny import SHIFT, all_layers, checked_config, read_archive, trained
from weights.bases import WEIGHTS

pytestmark = pytest.mark.xdist_group("learning")
BASE = WEIGHTS / "tiny-flux"
CPU = torch.device("cpu")
SCALES = (0.0, 0.5, 1.0)
IMAGES = 4  # per prompt
SCENES = random.Random(0).sample(held_out_scenes(), 12)  # with every shape, colour and background
GENTLE = {"lora_type": "subject", "steps": 30, "learning_rate": 5e-4, "lr_scheduler": "constant", "preservation": 0.0}


@dataclass(frozen=True)
class HeldOut:
    """Images that no LoRA is trained on, and the losses of the base on them."""

    monsters: list[Example]
    world: list[Example]
    before: tuple[learning.Losses, learning.Losses]


@dataclass(frozen=True)
class TrainedLora:
    """A LoRA that was trained on the bundled zip, with the losses before and after."""

    tensors: dict[str, torch.Tensor]
    monster: tuple[learning.Losses, learning.Losses]
    world: tuple[learning.Losses, learning.Losses]

    def share_closed(self) -> float:
        """The decrease of the loss on the concept, relative to its distance from the base's loss on the world."""
        before, after = self.monster
        return (before.mean - after.mean) / (before.mean - self.world[0].mean)

    def world_rise(self) -> float:
        """The loss on the world after the training, relative to that before."""
        return self.world[1].mean / self.world[0].mean


@pytest.fixture(scope="module")
def encoders() -> FluxPipeline:
    return load_encoders(BASE, on=CPU)


@pytest.fixture(scope="module")
def held_out(encoders) -> HeldOut:
    transformer = base_transformer()
    monsters, world = learning.monsters(encoders), learning.world(encoders)
    before = learning.losses(transformer, monsters), learning.losses(transformer, world)
    return HeldOut(monsters, world, before)


def base_transformer() -> FluxTransformer2DModel:
    return load_transformer(BASE, WeightPlacement("fp32", False, CPU))


def train_lora(folder: Path, encoders: FluxPipeline, held_out: HeldOut, **changes: object) -> TrainedLora:
    """Train as in the demo, with changed inputs."""
    transformer = base_transformer()
    config = checked_config(**{**TRAINING, **changes})
    recipe = make_recipe(config, images=TRAINING_IMAGES, processes=1).recipe
    found = read_archive(ARCHIVE, into=folder, resolutions=config.resolutions, crops=recipe.views)
    dataset = replace(found, neutral_prompts=neutral_prompts(BASE)).encoded(encoders)
    add_lora(transformer, layers=all_layers(transformer), rank=recipe.lora_rank, seed=recipe.seed)
    fuse_lora(transformer)  # as the fast engine does, which is the default
    trained(
        transformer, recipe, hold_out(dataset, seed=recipe.seed).train, preservation_by(dataset, transformer, recipe)
    )
    after = learning.losses(transformer, held_out.monsters), learning.losses(transformer, held_out.world)
    monster, world = zip(held_out.before, after, strict=True)
    return TrainedLora(lora_tensors(transformer), monster, world)


def preservation_by(dataset, transformer, recipe) -> Preservation | None:
    """Preservation as in a training, with images that the base generates of its neutral prompts."""
    if not recipe.preservation:
        return None
    images = NeutralImages(BASE, dataset.neutral, neutral_side((128,)))
    noise_settings = NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, SHIFT)
    preservation = Preservation(transformer, recipe, noise_settings, images, processes=1)
    stop = Stop(Log(lambda *_: None, None), Termination(), minutes=None)
    assert preservation.generate(SingleProcess(), steps=range(recipe.steps), stop=stop)
    return preservation


@pytest.fixture(scope="module")
def gentle(tmp_path_factory, encoders, held_out) -> TrainedLora:
    return train_lora(tmp_path_factory.mktemp("gentle"), encoders, held_out, **GENTLE)


@pytest.fixture(scope="module")
def demo_lora(tmp_path_factory, encoders, held_out) -> TrainedLora:
    return train_lora(tmp_path_factory.mktemp("demo"), encoders, held_out)


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    return load_pipeline(BASE)


@pytest.fixture(scope="module")
def merger(pipeline) -> LoraMerger:
    return LoraMerger(pipeline)


@pytest.fixture(scope="module")
def base_images(pipeline, merger) -> SceneImages:
    """What the base without a LoRA generates."""
    merger.apply([])
    return generated(pipeline, SCENES, seeds=1)


@pytest.fixture(scope="module")
def without_lora(base_images) -> Score:
    """The score of the base without a LoRA."""
    return score(base_images, classifier=classify)


@pytest.fixture(scope="module")
def demo_images(demo_lora, pipeline, merger) -> dict[float, list[Image.Image]]:
    """Images of the prompts with the trigger word, at each scale of the demo's LoRA, with the same seeds."""
    images = {}
    for scale in SCALES:
        _apply(merger, demo_lora, scale)
        requests = [plain_request(prompt, count=IMAGES) for prompt in WITH_TRIGGER]
        images[scale] = [image for request in requests for image in generate(pipeline, request)]
    return images


def test_the_base_follows_prompts_that_it_is_not_trained_on(base_images, without_lora):
    """By the lenient measure, which returns the most similar shape, and by the strict one, which checks its details."""
    strict = score(base_images, classifier=classify_strictly)
    print(f"\nthe base on held-out combinations: {without_lora}; by the strict measure {strict}")
    assert without_lora.colour >= 0.95
    assert without_lora.shape >= 0.90
    assert strict.shape >= 0.50


def test_the_loss_on_new_images_of_the_concept_falls_while_that_on_the_world_hardly_rises(gentle):
    before, after = gentle.monster
    fall, error = before.fall_to(after)
    print(f"\ngentle: {gentle.share_closed():.1%} of the gap closed, world x{gentle.world_rise():.3f}")
    assert fall > 3 * error
    assert gentle.world_rise() < 1.05


def test_the_demo_closes_most_of_the_gap(demo_lora):
    before, after = demo_lora.monster
    fall, error = before.fall_to(after)
    print(f"\ndemo: {demo_lora.share_closed():.1%} of the gap closed, world x{demo_lora.world_rise():.3f}")
    assert fall > 3 * error
    assert demo_lora.share_closed() > 0.7


def test_the_concept_appears_more_strongly_at_a_larger_scale(demo_images):
    shares = [statistics.fmean(map(monster_share, demo_images[scale])) for scale in SCALES]
    print(f"\nshare of the image in the monster's colours at {SCALES}: {shares}")
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.25 * shares[2]


def test_the_gentle_lora_hardly_changes_prompts_without_the_trigger(gentle, without_lora, pipeline, merger):
    with_lora = _score_with(gentle, pipeline, merger)
    assert with_lora.colour >= without_lora.colour - 0.1
    assert with_lora.shape >= without_lora.shape - 0.1


def test_the_demo_lora_hardly_changes_prompts_without_the_trigger(demo_lora, without_lora, pipeline, merger):
    with_lora = _score_with(demo_lora, pipeline, merger)
    assert with_lora.colour >= without_lora.colour - 0.1
    assert with_lora.shape >= without_lora.shape - 0.1


def test_the_demo_lora_generates_whole_monsters_and_the_base_none(demo_images):
    """By the strict measure, which rejects blurred monsters, pale feet and missing horns."""
    right = {scale: sum(map(is_monster, demo_images[scale])) for scale in (0.0, 1.0)}
    print(f"\nwhole monsters among {IMAGES * len(WITH_TRIGGER)} at lora_scale 0 and 1: {right}")
    assert right[0.0] == 0
    assert right[1.0] >= 0.75 * IMAGES * len(WITH_TRIGGER)


def _score_with(lora: TrainedLora, pipeline: FluxPipeline, merger: LoraMerger) -> Score:
    """Return the score on held-out combinations with a LoRA at scale 1."""
    _apply(merger, lora, 1.0)
    found = score_base(pipeline, SCENES, seeds=1)
    print(f"\nwith the LoRA {found}")
    return found


def _apply(merger: LoraMerger, lora: TrainedLora, scale: float) -> None:
    merger.apply([AppliedLora(f"lora{id(lora)}", convert_lora(lora.tensors), scale, "lora_weights")])


def test_the_bundled_zip_is_the_one_that_its_code_writes(tmp_path: Path):
    write_archive(tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as again, zipfile.ZipFile(ARCHIVE) as bundled:
        assert [(i.filename, i.CRC) for i in again.infolist()] == [(i.filename, i.CRC) for i in bundled.infolist()]
