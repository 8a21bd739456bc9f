"""What makes two trainings the same: then one can go on from the other's checkpoint, to the last bit."""

import hashlib
import json
import reprlib
from pathlib import Path
from typing import Any

from lora.dataset.reading import Dataset
from lora.flux.fingerprint import fingerprint
from lora.flux.prompt import MOST_TEXT_TOKENS, text_tokens_of
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.optimizers import warm_up_steps
from lora.training.recipe.recipe import Recipe

Json = dict[str, Any]


def identity_of(
    recipe: Recipe,
    dataset: Dataset,
    config: TrainConfig,
    *,
    neutral: tuple[str, ...],
    layers: tuple[str, ...],
    base: str,
    weights: Path,
    processes: int,
) -> Json:
    """By name. How long to train is no part of it where the learning rate depends on it in its warm-up alone, so that a
    training can go on further than was first asked."""
    settings = recipe.settings() | {"batch_size": recipe.batch_size * processes}
    del settings["preservation"]
    if recipe.lr_scheduler == "constant":
        del settings["steps"]
        settings["warm_up_steps"] = warm_up_steps(recipe.steps)
    images = [(image.look.content, list(map(str, image.look.sizes)), image.prompt) for image in dataset.images]
    return {
        "base_model": base,
        "base_weights": fingerprint(weights, ["transformer"]),
        **_fields_since_preservation(recipe, neutral, text_tokens_of(weights)),
        **settings,
        "trigger_word": config.trigger_word,
        "resolutions": config.resolutions,
        "validation": config.validation,
        "layers": f"{len(layers)}, {_digest(layers)}",
        "images": len(dataset.images),
        "images_and_captions": _digest(sorted(images)),
    }


def _fields_since_preservation(recipe: Recipe, neutral: tuple[str, ...], text_tokens: int) -> Json:
    """Left out where they are as they always were before there was a choice, so that older checkpoints are resumed."""
    fields: Json = {} if text_tokens == MOST_TEXT_TOKENS else {"text_tokens": text_tokens}
    if recipe.preservation:
        prompts = f"{len(neutral)}, {_digest(neutral)}"
        fields |= {"preservation": recipe.preservation, "neutral_prompts": prompts}
    return fields


def refuse_other(found: Json, wanted: Json, named: str) -> None:
    """Raises ValueError that tells the first field in which two identities differ, if they do; `named` is the input or
    folder that the found one came from."""
    wanted = json.loads(json.dumps(wanted))  # with lists for tuples, as the found one has
    for field in (*wanted, *found):
        theirs, ours = found.get(field), wanted.get(field)
        if theirs != ours:
            found_and_expected = f"{reprlib.repr(theirs)}: expected {reprlib.repr(ours)}"
            raise ValueError(f"{named} holds a training of {field} {found_and_expected}, as this one has")


def folder_name(identity: Json) -> str:
    """A name for the files of a training."""
    return _digest(identity)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
