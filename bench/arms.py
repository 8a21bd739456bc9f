"""The contenders of the learning benchmark, all trained on the same images. Knows no measure."""

from collections.abc import Callable
from pathlib import Path

from diffusers import FluxTransformer2DModel

from bench.concepts import TRAINING_IMAGES
from bench.plain_dreambooth import PLAIN_SETTINGS, add_plain_lora, train_plain
from lora.dataset.encoding import EncodedDataset
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.presets import PRESETS
from lora.training.recipe.recipe import Recipe, make_recipe
from lora.training.recipe.sigmas import Shift
from script.openapi import training_inputs

PLAIN = "plain"
ARMS = (PLAIN, "replicate", "subject")
BATCH_SIZE = 1
FILES = ("input_images", "input_captions", "resume_from")
ROOT = Path(__file__).resolve().parents[1]

OnStep = Callable[[int], None]


def settings_of(arm: str) -> dict[str, object]:
    """The settings of an arm, which are stored with its results."""
    return recipe_of(arm, steps=1, seed=0).settings() if arm in PRESETS else dict(PLAIN_SETTINGS)


def crops_of_arm(arm: str) -> int:
    """The number of crops of each image at each size."""
    return PRESETS[arm].views if arm in PRESETS else 1


def recipe_of(preset: str, *, steps: int, seed: int) -> Recipe:
    """The recipe of a preset with all other inputs at their defaults, except the number of steps and the seed."""
    inputs = {name: schema.get("default") for name, schema in training_inputs(ROOT).items() if name not in FILES}
    left_open = {"lora_type": preset, "learning_rate": 0, "lora_rank": 0, "steps": steps, "seed": seed}
    return make_recipe(TrainConfig.checked(**inputs | left_open), images=TRAINING_IMAGES, processes=1).recipe


def train_arm(
    arm: str,
    transformer: FluxTransformer2DModel,
    dataset: EncodedDataset,
    *,
    shift: Shift,
    steps: int,
    seed: int,
    at: frozenset[int],
    on_step: OnStep,
) -> None:
    """Train a LoRA on `transformer`. At each step of `at`, `on_step` is called while the transformer has the weights
    that would be exported."""
    if arm == PLAIN:
        add_plain_lora(transformer, seed=seed)
        report = _only_at(at, on_step)
        train_plain(transformer, dataset, steps=steps, batch_size=BATCH_SIZE, seed=seed, report=report)
        return
    recipe = recipe_of(arm, steps=steps, seed=seed)
    add_lora(transformer, layers=block_layers(transformer.config), rank=recipe.lora_rank, seed=seed)
    state = TrainingState(transformer, recipe)
    noise_settings = NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, shift)
    batches = Batches(dataset, batch_size=BATCH_SIZE, noise_settings=noise_settings, seed=seed)
    for step in range(1, steps + 1):
        take_step(transformer, state, batches, recipe, process_group=SingleProcess())
        if step in at:
            with state.averaged():
                on_step(step)
    state.average.copy_to(state.parameters)


def _only_at(steps: frozenset[int], on_step: OnStep) -> OnStep:
    return lambda step: on_step(step) if step in steps else None
