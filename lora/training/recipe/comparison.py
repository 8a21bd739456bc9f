"""What a recipe has in common with its preset, for the log."""

from dataclasses import replace

from lora.base.presets import Preset
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.recipe import Recipe, make_recipe

SHOWN = ("steps", "batch_size", "gradient_accumulation", "learning_rate", "lora_rank", "optimizer", "seed")


def recipe_lines(
    config: TrainConfig, recipe: Recipe, preset: Preset, *, images: int, processes: int
) -> tuple[str, ...]:
    """Lines for the log: in what the recipe differs from its preset for this number of images, and its main numbers."""
    main = ", ".join(f"{name} {getattr(recipe, name)}" for name in SHOWN)
    sizes = ",".join(map(str, config.resolutions))
    lines = [f"settings: {main}, resolution {sizes}; all of them are in config.yaml in the tar"]
    changed = _differences(config, recipe, preset, images=images, processes=processes)
    if changed:
        lines.insert(0, f"other than lora_type {recipe.lora_type} would choose: {', '.join(changed)}")
    return tuple(lines)


def _differences(config: TrainConfig, recipe: Recipe, preset: Preset, *, images: int, processes: int) -> list[str]:
    left_open = replace(
        config,
        steps=0,
        learning_rate=0.0,
        lora_rank=0,
        caption_dropout_rate=None,
        preservation=None,
        timestep_logit_mean=None,
        ema_decay=None,
    )
    chosen = make_recipe(left_open, preset, images=images, processes=processes).recipe.settings()
    return [
        f"{name} {value} (it: {chosen[name]})" for name, value in recipe.settings().items() if value != chosen[name]
    ]
