"""The contenders of the learning benchmark, all trained on the same images. Knows no measure."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from diffusers import FluxTransformer2DModel

from bench.concepts import TRAINING_IMAGES
from bench.plain_dreambooth import PLAIN_SETTINGS, add_plain_lora, train_plain
from bench.preserving import ASKED_BY_A_TRAINING, Question, preservation_of
from lora.dataset.encoding import EncodedDataset, Example
from lora.flux.latents import PATCH
from lora.flux.presets import PRESETS
from lora.training.learning.adapter import add_lora
from lora.training.learning.batches import Batches, NoiseSettings
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.layers import block_layers
from lora.training.recipe.recipe import Recipe, make_recipe
from lora.training.recipe.sigmas import Shift
from script.openapi import training_inputs
from script.tiny_flux.captions import TRIGGER

PLAIN = "plain"
BATCH_SIZE = 1
FILES = ("input_images", "input_captions", "resume_from")
ROOT = Path(__file__).resolve().parents[1]

OnStep = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A preset with other inputs than its own, and what its preserving steps ask."""

    preset: str = "subject"
    inputs: Mapping[str, object] = field(default_factory=dict)
    weight: float | None = None  # of the preservation loss; None is that of the preset
    question: Question = ASKED_BY_A_TRAINING


def _preserving(share: float, weight: float, question: Question = ASKED_BY_A_TRAINING, **inputs: object) -> Arm:
    return Arm(inputs={"preservation": share, **inputs}, weight=weight, question=question)


PRESERVATION_ARMS: Mapping[str, Arm] = {  # named by the share of the steps and the weight
    "0": _preserving(0.0, 1),
    "0.25 x 1": _preserving(0.25, 1),
    "0.25 x 4": _preserving(0.25, 4),
    "0.25 x 16": _preserving(0.25, 16),
    "0.1 x 10": _preserving(0.1, 10),
    "0.5 x 1": _preserving(0.5, 1),
    "0.5 x 4": _preserving(0.5, 4),
    "0.25, images as target": _preserving(0.25, 1, Question(images_are_target=True)),
    "0.25 x 4, images as target": _preserving(0.25, 4, Question(images_are_target=True)),
    "0.25 x 4, class word": _preserving(0.25, 4, Question(word="a monster")),
    "0.25 x 4, no trigger": _preserving(0.25, 4, Question(word="")),
    "0.25 x 4, low sigma": _preserving(0.25, 4, Question(logit_mean=-1.0)),
    "0.25 x 4, rate 8e-4": _preserving(0.25, 4, learning_rate=8e-4),
    "0.25 x 4, rank 32": _preserving(0.25, 4, lora_rank=32),
}
STYLE_ARMS: Mapping[str, Arm] = {  # `style` with other settings than its own; at its rank of 32, its rate is 2.8e-4
    "style, preserving": Arm(preset="style", inputs={"preservation": 0.25}, weight=2),
    "style, half the rate": Arm(preset="style", inputs={"learning_rate": 1.4e-4}),
    "style, twice the rate": Arm(preset="style", inputs={"learning_rate": 5.6e-4}),
    "style, high sigma": Arm(preset="style", inputs={"timestep_logit_mean": 3.0}),
}
GENERAL_ARMS: Mapping[str, Arm] = {  # `general` with other settings than its own
    "general, not preserving": Arm(preset="general", inputs={"preservation": 0.0}),
    "general, half the rate, not preserving": Arm(
        preset="general", inputs={"learning_rate": 1.5e-4, "preservation": 0.0}
    ),
    "general, the public rate": Arm(preset="general", inputs={"learning_rate": 4e-4}),
    "general, sigma as subject": Arm(preset="general", inputs={"timestep_logit_mean": 0.0}),
}
ARMS: Mapping[str, Arm | None] = {  # None is the plain loop
    PLAIN: None,
    "replicate": Arm(preset="replicate"),
    "subject": Arm(),  # 0.25 x 2
    "style": Arm(preset="style"),
    "general": Arm(preset="general"),
    **PRESERVATION_ARMS,
    **STYLE_ARMS,
    **GENERAL_ARMS,
}
DEFAULT_ARMS = (PLAIN, "replicate", "subject")


def arms_of(lora_type: str) -> tuple[str, ...]:
    """The arms that can be compared for a type: the plain loop, the public recipe, and those of its preset."""
    presets = ("replicate", lora_type)
    return tuple(name for name, arm in ARMS.items() if arm is None or arm.preset in presets)


def settings_of(name: str) -> dict[str, object]:
    """The settings of an arm, which are stored with its results."""
    arm = ARMS[name]
    if arm is None:
        return dict(PLAIN_SETTINGS)
    return recipe_of(arm, steps=1, seed=0).settings() | {"question": asdict(arm.question)}


def crops_of_arm(name: str) -> int:
    """The number of crops of each image at each size."""
    arm = ARMS[name]
    return PRESETS[arm.preset].views if arm else 1


def dropped_text_of_arm(name: str) -> str:
    """What replaces a dropped caption."""
    arm = ARMS[name]
    return TRIGGER if arm and PRESETS[arm.preset].drops_to_trigger else ""


def word_of_arm(name: str) -> str | None:
    """The word in place of the trigger word in what preservation asks about the training images; None if it does not
    ask about them."""
    arm = ARMS[name]
    return arm.question.word if arm else None


def recipe_of(arm: Arm, *, steps: int, seed: int) -> Recipe:
    """The recipe of an arm with all other inputs at their defaults, except the number of steps and the seed."""
    inputs = {name: schema.get("default") for name, schema in training_inputs(ROOT).items() if name not in FILES}
    left_open = {"lora_type": arm.preset, "learning_rate": 0, "lora_rank": 0, "steps": steps, "seed": seed}
    config = TrainConfig.checked(**{**inputs, **left_open, **arm.inputs})
    recipe = make_recipe(config, PRESETS[config.lora_type], images=TRAINING_IMAGES, processes=1).recipe
    return recipe if arm.weight is None else replace(recipe, preservation_weight=arm.weight)


@dataclass(frozen=True, slots=True)
class Material:
    """What an arm is trained on."""

    dataset: EncodedDataset
    asked: tuple[Example, ...]  # the training images, with the prompts of the arm's question


def train_arm(
    name: str,
    transformer: FluxTransformer2DModel,
    material: Material,
    *,
    shift: Shift,
    steps: int,
    seed: int,
    at: frozenset[int],
    on_step: OnStep,
) -> None:
    """Train a LoRA on `transformer`. At each step of `at`, `on_step` is called while the transformer has the weights
    that would be exported."""
    arm, dataset = ARMS[name], material.dataset
    if arm is None:
        add_plain_lora(transformer, seed=seed)
        report = _only_at(at, on_step)
        train_plain(transformer, dataset, steps=steps, batch_size=BATCH_SIZE, seed=seed, report=report)
        return
    recipe = recipe_of(arm, steps=steps, seed=seed)
    add_lora(transformer, layers=block_layers(transformer.config, type(transformer)), rank=recipe.lora_rank, seed=seed)
    state = TrainingState(transformer, recipe)
    noise_settings = NoiseSettings(recipe.sigma_rule, recipe.offset_noise, recipe.caption_dropout_rate, shift, PATCH)
    batches = Batches(dataset, batch_size=BATCH_SIZE, noise_settings=noise_settings, seed=seed)
    preservation = preservation_of(transformer, recipe, noise_settings, arm.question, dataset.neutral, material.asked)
    for step in range(1, steps + 1):
        take_step(transformer, state, batches, recipe, process_group=SingleProcess(), preservation=preservation)
        if step in at:
            with state.averaged():
                on_step(step)
    state.average.copy_to(state.parameters)


def _only_at(steps: frozenset[int], on_step: OnStep) -> OnStep:
    return lambda step: on_step(step) if step in steps else None
