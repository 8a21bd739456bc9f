"""The identity of a training: everything that must be equal for it to resume from a checkpoint, bit for bit."""

import hashlib
import json
import reprlib
from pathlib import Path
from typing import Any

from lora.dataset.names import printable
from lora.dataset.reading import CaptionedImage, Dataset
from lora.flux.fingerprint import fingerprint
from lora.flux.prompt import MAX_TEXT_TOKENS, text_tokens_of
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
    """The identity of a training as named values.

    The number of steps is not part of it if the learning rate depends on it only in the warm-up, so that a training can
    resume with more steps than it was started with.
    """
    settings = recipe.settings() | {"batch_size": recipe.batch_size * processes}
    del settings["preservation"]
    if recipe.lr_scheduler == "constant":
        del settings["steps"]
        settings["warm_up_steps"] = warm_up_steps(recipe.steps)
    images = [
        (image.inspection.content, list(map(str, image.inspection.sizes)), image.prompt, *_repeats(image))
        for image in dataset.images
    ]
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


def _repeats(image: CaptionedImage) -> list[int]:
    """How often an image is repeated; nothing for once, so that older checkpoints can still be resumed."""
    return [image.repeats] if image.repeats > 1 else []


def _fields_since_preservation(recipe: Recipe, neutral: tuple[str, ...], text_tokens: int) -> Json:
    """Fields that were added with preservation; left out at their former fixed values, so that older checkpoints can
    still be resumed."""
    fields: Json = {} if text_tokens == MAX_TEXT_TOKENS else {"text_tokens": text_tokens}
    if recipe.preservation:
        prompts = f"{len(neutral)}, {_digest(neutral)}"
        fields |= {"preservation": recipe.preservation, "neutral_prompts": prompts}
    return fields


def refuse_mismatch(found: Json, expected: Json, named: str) -> None:
    """Raise ValueError with the first field in which two identities differ; `named` is the input that `found` comes
    from."""
    expected = json.loads(json.dumps(expected))  # lists in place of tuples, as in `found`
    for field in (*expected, *found):
        found_value, expected_value = found.get(field), expected.get(field)
        if found_value != expected_value:
            found_and_expected = f"{reprlib.repr(found_value)}: expected {reprlib.repr(expected_value)}"
            raise ValueError(
                f"{named} is from a training with {printable(field)[:60]} {found_and_expected}, as in this training"
            )


def folder_name(identity: Json) -> str:
    """The name of the checkpoint folder of a training, from its identity."""
    return _digest(identity)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
