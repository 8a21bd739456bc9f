"""The contenders of the learning benchmark, each trained from the same pictures. Knows no measure."""

from collections.abc import Callable
from pathlib import Path

from diffusers import FluxTransformer2DModel

from bench.concepts import TRAINING_IMAGES
from bench.plain_dreambooth import PLAIN_SETTINGS, add_plain_lora, train_plain
from lora.dataset.encoding import EncodedDataset
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, Draws
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.presets import PRESETS
from lora.training.recipe.recipe import Recipe, choose
from lora.training.recipe.sigmas import Shift
from script.openapi import training_inputs

PLAIN = "plain"
ARMS = (PLAIN, "replicate", "subject")
BATCH_SIZE = 1
FILES = ("input_images", "input_captions", "resume_from")
ROOT = Path(__file__).resolve().parents[1]

Take = Callable[[int], None]


def settings_of(arm: str) -> dict[str, object]:
    """What sets an arm apart, to be kept beside its results."""
    return recipe_of(arm, steps=1, seed=0).settings() if arm in PRESETS else dict(PLAIN_SETTINGS)


def crops_of_arm(arm: str) -> int:
    """Of each image at each size."""
    return PRESETS[arm].views if arm in PRESETS else 1


def recipe_of(preset: str, *, steps: int, seed: int) -> Recipe:
    """What a person gets who leaves everything to a preset but the number of steps."""
    inputs = {name: schema.get("default") for name, schema in training_inputs(ROOT).items() if name not in FILES}
    left_open = {"lora_type": preset, "learning_rate": 0, "lora_rank": 0, "steps": steps, "seed": seed}
    return choose(TrainConfig.checked(**inputs | left_open), images=TRAINING_IMAGES, processes=1).recipe


def train_arm(
    arm: str,
    transformer: FluxTransformer2DModel,
    dataset: EncodedDataset,
    *,
    shift: Shift,
    steps: int,
    seed: int,
    at: frozenset[int],
    take: Take,
) -> None:
    """Train a LoRA on `transformer`; at each step of `at`, `take` is called while it wears what would be exported."""
    if arm == PLAIN:
        add_plain_lora(transformer, seed=seed)
        report = _at(at, take)
        train_plain(transformer, dataset, steps=steps, batch_size=BATCH_SIZE, seed=seed, report=report)
        return
    recipe = recipe_of(arm, steps=steps, seed=seed)
    add_lora(transformer, layers=block_layers(transformer.config), rank=recipe.lora_rank, seed=seed)
    state = TrainingState(transformer, recipe)
    draws = Draws(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, shift)
    batches = Batches(dataset, batch_size=BATCH_SIZE, draws=draws, seed=seed)
    for step in range(1, steps + 1):
        take_step(transformer, state, batches, recipe, team=SingleProcess())
        if step in at:
            with state.averaged():
                take(step)
    state.average.copy_to(state.parameters)


def _at(steps: frozenset[int], take: Take) -> Take:
    return lambda step: take(step) if step in steps else None
