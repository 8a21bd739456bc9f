"""Turn the inputs into a recipe: make every choice that they leave open, with a reason for each."""

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

from lora.base.presets import REPLICATE, Preset
from lora.dataset.wording import counted
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.optimizers import effective_learning_rate
from lora.training.recipe.sigmas import STYLE_LOGIT_MEAN, SigmaRule

MAX_GRAD_NORM = 1.0  # the default of diffusers' training scripts
ROUNDING = 1e-9  # 100 * 0.29 is a little less than 29
# Our choice, up to MAX_RATE_FOR_BATCHES, which bounds the square root of the images per step.
FEW_IMAGES, MANY_IMAGES = 4, 100
MANY_IMAGES_RANK = 32
FEW_IMAGES_STEPS, FEW_IMAGES_DROPOUT, FEW_IMAGES_RATE = 400, 0.1, 2e-4
RANK_OF_RATES = 16  # the rank for which the presets give the learning rate
MAX_RATE_FOR_BATCHES = 2.0
# Steps per image: users of FLUX.1-dev report overfitting at 100 (docs/training.md); the lower bound is our choice.
MIN_EXPOSURES, MAX_EXPOSURES = 20, 100
MIN_RATE_TIMES_STEPS, MAX_RATE_TIMES_STEPS = 0.04, 0.5  # our choice; Replicate's trainer has 0.4, ai-toolkit 0.2
# As shares of Adam's rate: all steps of lion have the same length (Chen et al. 2023, arXiv 2302.06675).
RATE_RELATIVE_TO_ADAM = {"lion": 0.2, "lion8bit": 0.2}
ADAM_OPTIMIZERS = ("adamw8bit", "adamw", "adam8bit", "adam")  # a step moves each weight by about the learning rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that determines the LoRA, except for the data set, the base and the layers."""

    lora_type: str
    steps: int
    learning_rate: float
    batch_size: int  # of one process
    gradient_accumulation: int
    lora_rank: int
    sigma_rule: SigmaRule
    offset_noise: float
    caption_dropout_rate: float
    drops_to_trigger: bool
    preservation: float  # share of the steps that also compute the preservation loss
    preservation_weight: float  # of that loss, relative to that of training
    views: int  # of each image at each size
    optimizer: str
    weight_decay: float
    epsilon: float
    max_grad_norm: float
    lr_scheduler: str
    ema_decay: float
    ema_warms_up: bool
    seed: int

    def settings(self) -> dict[str, object]:
        """The recipe as plain values, by name."""
        return asdict(self)

    def sigma_line(self) -> str:
        """A line for the log on the noise levels that are trained."""
        rule = self.sigma_rule
        mean = "shifted for the image size" if rule.logit_mean is None else f"with mean {rule.logit_mean:g}"
        style = f", {rule.style_share:.0%} of it with mean {STYLE_LOGIT_MEAN:g}" if rule.style_share else ""
        return f"sigma: logit-normal {mean}{style}"

    def dropped_text(self, trigger_word: str) -> str:
        """The text that replaces a dropped caption."""
        return trigger_word if self.drops_to_trigger else ""


class RecipeAndReasons(NamedTuple):
    """A recipe, and lines that give the reasons for its choices."""

    recipe: Recipe
    reasons: tuple[str, ...]


def make_recipe(config: TrainConfig, preset: Preset, *, images: int, processes: int) -> RecipeAndReasons:
    """The recipe for this number of images, on this number of processes that each take `batch_size` images a step;
    `preset` is that of the base's family for `lora_type`."""
    images_per_step = config.batch_size * config.gradient_accumulation * processes
    rank, rank_reason = _rank(config, preset, images)
    rate, rate_reason = _rate(config, preset, images=images, rank=rank, images_per_step=images_per_step)
    steps, steps_reason = _steps(config, preset, images=images, images_per_step=images_per_step)
    dropout, dropout_reason = _dropout(config, preset, images)
    recipe = Recipe(
        lora_type=config.lora_type,
        steps=steps,
        learning_rate=rate,
        batch_size=config.batch_size,
        gradient_accumulation=config.gradient_accumulation,
        lora_rank=rank,
        sigma_rule=_sigma_rule(config, preset),
        offset_noise=preset.offset_noise,
        caption_dropout_rate=dropout,
        drops_to_trigger=preset.drops_to_trigger,
        preservation=preservation_of(config, preset),
        preservation_weight=preset.preservation_weight,
        views=preset.views,
        optimizer=config.optimizer,
        weight_decay=preset.weight_decay,
        epsilon=preset.epsilon,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler=config.lr_scheduler,
        ema_decay=preset.ema_decay if config.ema_decay is None else config.ema_decay,
        ema_warms_up=preset.ema_warms_up,
        seed=config.seed,
    )
    reasons = (
        rank_reason,
        rate_reason,
        steps_reason,
        dropout_reason,
        *_preset_reasons(config, preset, steps),
        *_warnings(recipe, images=images, images_per_step=images_per_step, are_steps_given=bool(config.steps)),
    )
    return RecipeAndReasons(recipe, tuple(filter(None, reasons)))


def preservation_of(config: TrainConfig, preset: Preset) -> float:
    """The share of the steps that preserve: the input, or that of the preset."""
    return preset.preservation if config.preservation is None else config.preservation


def steps_that_preserve(steps: int, share: float) -> int:
    """How many of the first `steps` steps compute the preservation loss, if a share of 0..1 does, spread evenly.

    The rounding error of the product does not count.
    """
    return math.floor(steps * share + ROUNDING)


def _sigma_rule(config: TrainConfig, preset: Preset) -> SigmaRule:
    if config.timestep_logit_mean is None:
        return SigmaRule(preset.logit_mean, 1.0, preset.style_share)
    return SigmaRule(config.timestep_logit_mean, 1.0, 0.0)


def _rank(config: TrainConfig, preset: Preset, images: int) -> tuple[int, str]:
    if config.lora_rank:
        return config.lora_rank, ""
    rank = max(MANY_IMAGES_RANK, preset.lora_rank) if images > MANY_IMAGES else preset.lora_rank
    return rank, f"lora_rank {rank}: the default of lora_type {config.lora_type} for {counted(images, 'image')}"


def _rate(config: TrainConfig, preset: Preset, *, images: int, rank: int, images_per_step: int) -> tuple[float, str]:
    """The learning rate and its reason. A step of Adam has the same length at any rank, but with alpha = rank a higher
    rank makes it count for more."""
    rate = effective_learning_rate(config.optimizer, config.learning_rate)
    if rate != config.learning_rate:
        return rate, f"learning_rate {rate:g}: {config.optimizer} adapts it during training"
    if rate:
        return rate, ""
    if preset is REPLICATE:
        return preset.learning_rate, f"learning_rate {preset.learning_rate:g}: as in the public trainer"
    is_few = config.lora_type == "subject" and images <= FEW_IMAGES
    least = FEW_IMAGES_RATE if is_few else preset.learning_rate
    rate = least * math.sqrt(RANK_OF_RATES / rank) * min(math.sqrt(images_per_step), MAX_RATE_FOR_BATCHES)
    rate = float(f"{rate * RATE_RELATIVE_TO_ADAM.get(config.optimizer, 1.0):.2g}")
    of_few = f", halved for only {counted(images, 'image')}" if is_few else ""
    return rate, f"learning_rate {rate:g}: for rank {rank} and {counted(images_per_step, 'image')} per step{of_few}"


def _steps(config: TrainConfig, preset: Preset, *, images: int, images_per_step: int) -> tuple[int, str]:
    if config.steps:
        return config.steps, ""
    rule = preset.steps
    if preset is REPLICATE:
        return rule.most, f"steps {rule.most}: as in the public trainer"
    if config.lora_type == "subject" and images <= FEW_IMAGES:
        steps = max(math.ceil(FEW_IMAGES_STEPS / images_per_step), 1)
        return steps, f"steps {steps}: few, because more would overfit {counted(images, 'image')}"
    steps = math.ceil(min(max(rule.per_image * images, rule.least), rule.most) / images_per_step)
    bounds = f"{rule.least} to {rule.most} in total"
    return (
        steps,
        f"steps {steps}: {rule.per_image} for each of {counted(images, 'image')}, {bounds}, {images_per_step} per step",
    )


def _dropout(config: TrainConfig, preset: Preset, images: int) -> tuple[float, str]:
    if config.caption_dropout_rate is not None:
        return config.caption_dropout_rate, ""
    if config.lora_type == "subject" and images <= FEW_IMAGES:
        return FEW_IMAGES_DROPOUT, f"caption_dropout_rate {FEW_IMAGES_DROPOUT}: higher for {counted(images, 'image')}"
    return preset.caption_dropout_rate, ""


def _preset_reasons(config: TrainConfig, preset: Preset, steps: int) -> list[str]:
    """Lines on what only the preset decides, if it decides anything."""
    reasons = []
    if config.preservation is None and steps_that_preserve(steps, preset.preservation):
        reasons.append(f"preservation {preset.preservation:g}: keeps other prompts as in the base; 0 is off")
    if preset.views > 1:
        crops = counted(preset.views - 1, "crop")
        reasons.append(f"views {preset.views}: each image in full and in {crops} of nearly all of it")
    return reasons


def _warnings(recipe: Recipe, *, images: int, images_per_step: int, are_steps_given: bool) -> list[str]:
    exposures, notes = recipe.steps * images_per_step / images, []
    if recipe.preservation and not steps_that_preserve(recipe.steps, recipe.preservation):
        notes.append(
            f"preservation {recipe.preservation:g} of {counted(recipe.steps, 'step')} is less than one step: it is off"
        )
    if are_steps_given and exposures > MAX_EXPOSURES:
        notes.append(
            f"each image is seen {counted(round(exposures), 'time')}: above {MAX_EXPOSURES}, LoRAs may overfit"
        )
    if are_steps_given and exposures < MIN_EXPOSURES:
        notes.append(
            f"each image is seen {counted(round(exposures), 'time')}: below {MIN_EXPOSURES}, LoRAs may underfit"
        )
    rate_times_steps = recipe.learning_rate * recipe.steps * math.sqrt(recipe.lora_rank / RANK_OF_RATES)
    if recipe.optimizer in ADAM_OPTIMIZERS and not MIN_RATE_TIMES_STEPS <= rate_times_steps <= MAX_RATE_TIMES_STEPS:
        usual = f"{MIN_RATE_TIMES_STEPS} to {MAX_RATE_TIMES_STEPS} is usual"
        notes.append(f"learning_rate times steps is {rate_times_steps:.2g} (at rank {RANK_OF_RATES}): {usual}")
    return notes
