"""The settings of the training itself in a job: steps, rate, optimizer, average of the weights, network."""

import math
from typing import Any

from lora.base.presets import Preset
from lora.training.recipe.config import MAX_STEPS
from script.ai_toolkit.fields import GUIDANCE, NO_GUIDANCE
from script.ai_toolkit.layers import layers_regex
from script.ai_toolkit.section import Section
from script.presets import presets_of

RECIPE = "replicate"  # the preset with ai-toolkit's recipe, which is also that of the public trainer
DEFAULT_RANK, DEFAULT_STEPS, DEFAULT_RATE, DEFAULT_DECAY = 4, 1000, 1e-6, 0.999
ADAMW = "adamw"  # begins the names of its kinds
BETAS = [0.9, 0.999]  # of Adam in torch, bitsandbytes and here
EACH_BATCH, ACCUMULATION = "gradient_accumulation_steps", "gradient_accumulation"  # both are fields of ai-toolkit
WARM_UP = "after a warm-up of 5 % of the steps, at most 50"
# The means of the logit-normal here, for the values of timestep_type that have one. "weighted" draws all noise levels
# alike and weights the loss by a table of 1,000 numbers (toolkit/timestep_weighing). As a density of what is trained,
# its mean logit is 0.47, so the logit-normal around 0.47 is the one with the least Kullback-Leibler divergence from it.
TIMESTEP_TYPES = {
    "sigmoid": (0.0, "sigmoid is a logit-normal around 0"),
    "weighted": (0.47, "the nearest logit-normal; weighted draws all noise levels alike and weights the loss"),
}
# The share of the LoRA's weights by which another weight decay may change them during the training, at most.
NEGLIGIBLE_DECAY = 0.01
RISING = "linear raises the rate from a third in ai-toolkit (torch's LinearLR), and lowers it to 0 here"


def read_network(network: Section) -> None:
    """Take the rank and the layers. ai-toolkit trains FLUX with alpha = rank, whatever the file says."""
    if not network.is_given:
        network.report.fault(
            f"{network.path} is missing: expected type lora and linear; without it ai-toolkit trains the whole model"
        )
    elif str(network.get("type", "lora")).lower() != "lora":
        network.report.refuse(network.at("type"), network.get("type"), "lora, the only network that is trained here")
    else:
        network.report.note(network.at("type"), network.get("type"), "a LoRA")
        _rank(network)
        _layers(network.inner("network_kwargs"))
    network.close()


def _rank(network: Section) -> None:
    field = "rank" if "rank" in network.fields else "linear"
    rank = network.get(field, DEFAULT_RANK)
    network.positive("lora_rank", rank, field=field)
    for name in ("linear_alpha", "alpha"):
        alpha = network.get(name)
        if alpha is None:
            continue
        if alpha not in (rank, network.report.flags.get("lora_rank")):
            because = f"{field} is {rank} and alpha is the rank here, as in ai-toolkit for FLUX: change it or remove it"
            network.report.refuse(network.at(name), alpha, f"{rank}, because {because}")
        else:
            network.report.note(network.at(name), alpha, "alpha is the rank here")


def _layers(kwargs: Section) -> None:
    only, ignored = _names(kwargs, "only_if_contains"), _names(kwargs, "ignore_if_contains")
    if only == [] and "only_if_contains" in kwargs.fields:
        kwargs.report.refuse(kwargs.at("only_if_contains"), [], "a part of a layer's name; or remove it for all layers")
    elif "layers" in kwargs.report.flags:
        kwargs.report.note(kwargs.path, kwargs.fields or None, "--layers, which is given, wins")
    elif only or ignored:
        field = "only_if_contains" if only else "ignore_if_contains"
        kwargs.give("layers_to_optimize_regex", layers_regex(only, ignored), field=field)
    kwargs.close()


def _names(kwargs: Section, field: str) -> list[str]:
    found = kwargs.get(field, [])
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return found
    kwargs.report.refuse(kwargs.at(field), found, "a list of parts of layer names")
    return []


def micro_batches(train: Section) -> int:
    """How many of ai-toolkit's steps are one step here: with EACH_BATCH it counts each batch."""
    found = train.get(EACH_BATCH, 1)
    return found if isinstance(found, int) and found >= 1 else 1


def read_train(train: Section, *, has_guidance_embedding: bool) -> None:
    """Take the settings of section `train`, with ai-toolkit's defaults for those that are absent."""
    train.report.give("lora_type", RECIPE, path=train.path, found=None, remark="ai-toolkit's recipe")
    _steps(train)
    _rate(train)
    _optimizer(train)
    _optimizer_params(train.inner("optimizer_params"))
    _schedule(train)
    _average(train.inner("ema_config"))
    _timesteps(train)
    _guidance(train, has_embedding=has_guidance_embedding)
    train.report.give(
        "validation", False, path=train.at("validation_config"), found=None, remark="trains on all images"
    )
    train.close()


def _steps(train: Section) -> None:
    of_one = train.whole(EACH_BATCH, 1)
    accumulated = train.whole(ACCUMULATION, 1)
    if of_one > 1 and accumulated > 1:
        train.report.refuse(train.at(ACCUMULATION), accumulated, f"1 if {EACH_BATCH} is set")
    train.give("gradient_accumulation", max(of_one, accumulated), field=EACH_BATCH if of_one > 1 else ACCUMULATION)
    train.give("batch_size", train.get("batch_size", 1), field="batch_size")
    steps, remark = train.get("steps", DEFAULT_STEPS), ""
    if of_one > 1 and isinstance(steps, int):
        steps, remark = -(-steps // of_one), f"ai-toolkit counts each of {of_one} batches as a step"
    train.positive("steps", steps, field="steps", remark=remark)


def _rate(train: Section) -> None:
    rate = train.get("lr", DEFAULT_RATE)
    own = train.get("unet_lr", rate)
    if own != rate:
        train.report.refuse(train.at("unet_lr"), own, f"{rate}, as lr: set lr to it and remove unet_lr")
    train.positive("learning_rate", rate, field="lr")


def _optimizer(train: Section) -> None:
    name = train.get("optimizer", ADAMW)
    is_adamw = str(name).lower().startswith(ADAMW)
    decay = _preset(train).weight_decay
    remark = "" if is_adamw else f"with weight decay {decay:g}, which is 0 in ai-toolkit"
    train.give("optimizer", name, field="optimizer", remark=remark)


def _optimizer_params(params: Section) -> None:
    """Each must be what the preset has: there is no input for it."""
    preset = _preset(params)
    expected: dict[str, object] = {"weight_decay": preset.weight_decay, "eps": preset.epsilon, "betas": BETAS}
    for name, value in expected.items():
        found = params.get(name)
        if found == value:
            params.report.note(params.at(name), found, "as here")
        elif name == "weight_decay" and (change := _change_by_decay(params, found)) <= NEGLIGIBLE_DECAY:
            params.report.note(params.at(name), found, f"{value:g} here, which changes the LoRA by {change:.1%} in all")
        elif found is not None:
            params.report.refuse(params.at(name), found, f"{value}, which every training here has: change or remove it")
    for name in params.fields.keys() - expected.keys():
        params.report.refuse(params.at(name), params.get(name), "none: the optimizers here have no such setting")


def _change_by_decay(params: Section, found: object) -> float:
    """The share of the weights by which all steps together shrink them more or less than with weight decay `found`;
    infinite if a number is missing, or if decay is part of the gradient, as in all but AdamW."""
    chosen = {"optimizer": "", **params.report.inputs, **params.report.flags}
    rate, steps = chosen.get("learning_rate"), chosen.get("steps")
    if not isinstance(found, int | float) or not isinstance(rate, int | float) or not isinstance(steps, int):
        return math.inf
    is_known = rate > 0 and steps > 0 and str(chosen["optimizer"]).lower().startswith(ADAMW)
    return abs(_preset(params).weight_decay - found) * rate * steps if is_known else math.inf


def _preset(section: Section) -> Preset:
    presets = presets_of(section.report.base)
    return presets.get(section.report.flags.get("lora_type", RECIPE), presets[RECIPE])


def _schedule(train: Section) -> None:
    name: Any = train.get("lr_scheduler", "constant")
    if name not in ("constant", "cosine") and "lr_scheduler" not in train.report.flags:
        why = RISING if name == "linear" else "the others are not the same here"
        train.report.refuse(train.at("lr_scheduler"), name, f"constant or cosine, because {why}")
    else:
        train.give("lr_scheduler", name, field="lr_scheduler", remark=WARM_UP)


def _timesteps(train: Section) -> None:
    name = train.get("timestep_type", "sigmoid")
    mean, remark = TIMESTEP_TYPES.get(str(name), TIMESTEP_TYPES["sigmoid"])
    if str(name) not in TIMESTEP_TYPES and "timestep_logit_mean" not in train.report.flags:
        advice = "the others are not there: remove it, or give --timestep-logit-mean"
        train.report.refuse(train.at("timestep_type"), name, f"{' or '.join(TIMESTEP_TYPES)}, because {advice}")
    else:
        train.give("timestep_logit_mean", mean, field="timestep_type", remark=remark)


def _guidance(train: Section, *, has_embedding: bool) -> None:
    field = "bypass_guidance_embedding"
    found = train.get(field)
    if found is None:
        return
    if found is False:
        train.report.note(train.at(field), found, "as here")
    elif has_embedding:
        train.report.refuse(train.at(field), found, f"false, because {GUIDANCE}")
    else:
        train.report.note(train.at(field), found, f"no effect here: {NO_GUIDANCE}")


def _average(ema: Section) -> None:
    use = ema.get("use_ema", False)
    if not isinstance(use, bool):
        ema.report.refuse(ema.at("use_ema"), use, "true or false")
    elif use:
        ema.give("ema_decay", ema.get("ema_decay", DEFAULT_DECAY), field="ema_decay")
    else:
        ema.give("ema_decay", 0.0, field="use_ema", remark="no average of the weights")
    ema.close()


def checkpoint_every(save: Section, of_one: int) -> None:
    """Take the steps between saves, within the limits of the input."""
    every = save.whole("save_every", 1000, least=0) or MAX_STEPS
    save.give("checkpoint_every", min(every // of_one or 1, MAX_STEPS), field="save_every")
