"""The config.yaml in the tar of a training of this trainer, which has all of its settings, as inputs of another one."""

import json
from typing import Any

from lora.training.recipe.config import CHECKS, NO_SAMPLES, TrainConfig
from script.ai_toolkit.model import choose_recorded_base
from script.ai_toolkit.understanding import Understanding
from script.presets import preset_of

MARKS = ("lora_type", "base_model")  # fields that the config.yaml of every training has
RESOLUTIONS, BASE = "resolutions", "base_model"
WEIGHT = "preservation_weight"  # of a loss that a training without preservation does not have
COUNTS = ("base_family", "images", "layers_trained", "processes", "plan")  # found anew by each training


def is_own(tree: object) -> bool:
    """Whether a file is the config.yaml of a training of this trainer."""
    return isinstance(tree, dict) and all(name in tree for name in MARKS)


def read_own(tree: dict[str, Any], report: Understanding, defaults: dict[str, Any]) -> None:
    """Take every setting that is an input; what the recipe chose is compared with what it would choose again.

    `defaults` are those of all inputs, by name.
    """
    for name, value in tree.items():
        if name == BASE:
            choose_recorded_base(value, path=name, report=report)
        elif name == RESOLUTIONS:
            sizes = value if isinstance(value, list) else [value]
            report.give("resolution", ",".join(map(str, sizes)), path=name, found=value)
        elif name == "sample_prompts":
            prompts = "\n".join(map(str, value or [])) or NO_SAMPLES
            report.give(name, prompts, path=name, found=value)
        elif name in COUNTS:
            report.note(name, value, "found anew")
        elif name in CHECKS and value is None:
            report.note(name, value, "left to lora_type")
        elif name in CHECKS:
            report.give(name, value, path=name, found=value)
    if not report.faults:
        _compare(tree, report, defaults)


def _compare(tree: dict[str, Any], report: Understanding, defaults: dict[str, Any]) -> None:
    """Refuse what is neither an input nor what the recipe of these inputs has."""
    from lora.training.recipe.recipe import make_recipe  # noqa: PLC0415 - imports torch, which takes seconds

    inputs = {**{name: defaults[name] for name in CHECKS}, **report.inputs, **report.flags}
    try:
        config = TrainConfig.checked(**{name: inputs[name] for name in CHECKS})
        preset, images = preset_of(config.lora_type, report.base), _count(tree, "images")
        recipe = make_recipe(config, preset, images=images, processes=_count(tree, "processes")).recipe
    except ValueError as error:
        return report.fault(str(error))
    chosen: dict[str, Any] = json.loads(json.dumps(recipe.settings()))
    for name, value in tree.items():
        if name in CHECKS or name in (*COUNTS, RESOLUTIONS, BASE):
            continue
        if name not in chosen:
            report.fault(
                f"{str(name)[:80]} is not a setting of this version: remove it, or train with the version that has it"
            )
        elif name == WEIGHT and not recipe.preservation:
            report.note(name, value, "no effect without preservation")
        elif value != chosen[name]:
            report.refuse(name, value, f"{chosen[name]}, which lora_type {config.lora_type} has: change or remove it")
        else:
            report.note(name, value, f"of lora_type {config.lora_type}")
    return None


def _count(tree: dict[str, Any], name: str) -> int:
    found = tree.get(name)
    return found if isinstance(found, int) and found >= 1 else 1
