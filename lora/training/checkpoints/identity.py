"""The identity of a training: everything that must be equal for it to resume from a checkpoint, bit for bit."""

import hashlib
import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.base.fingerprint import fingerprint
from lora.dataset.mask_settings import ORIGINAL, WHITE
from lora.dataset.names import printable
from lora.dataset.reading import CaptionedImage, Dataset
from lora.families.registry import family_of
from lora.training.recipe.config import TrainConfig
from lora.training.recipe.optimizers import warm_up_steps
from lora.training.recipe.recipe import Recipe

Json = dict[str, Any]
FORMER = {
    "preservation": 0.0,
    "preservation_weight": 1.0,
    "mask_background": ORIGINAL,
}  # the values of a training whose identity lacks the fields
FORMER_TEXT_TOKENS = 512
NAME, WEIGHTS = "base_model", "base_weights"
ANOTHER_BASE = "train on the base of that training, or leave out "
ONLY_WITH_PRESERVATION = ("neutral_prompts", "preservation_weight")


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
    del settings["preservation"], settings["preservation_weight"]
    if recipe.lr_scheduler == "constant":
        del settings["steps"]
        settings["warm_up_steps"] = warm_up_steps(recipe.steps)
    images = [
        (image.inspection.content, list(map(str, image.inspection.sizes)), "\n".join(image.prompts), *_repeats(image))
        for image in dataset.images
    ]
    return {
        **_base(base, weights),
        **_fields_since_preservation(recipe, neutral, family_of(weights).text.length_of(weights)),
        **settings,
        "trigger_word": config.trigger_word,
        "resolutions": config.resolutions,
        "validation": config.validation,
        "layers": f"{len(layers)}, {_digest(layers)}",
        "images": len(dataset.images),
        "images_and_captions": _digest(sorted(images)),
        **_masks(dataset),
        **_references(dataset),
    }


def _base(name: str, weights: Path) -> Json:
    """What the identity says of the base. Its weights tell apart families and sizes that have the same name."""
    return {NAME: name, WEIGHTS: fingerprint(weights, ["transformer"])}


def _masks(dataset: Dataset) -> Json:
    """The masks, and what they do; nothing without any, so that older checkpoints can be resumed."""
    masks = sorted([image.inspection.content, image.mask.content] for image in dataset.images if image.mask)
    if not masks:
        return {}
    fields = {"masks": f"{len(masks)}, {_digest(masks)}", "unmasked_weight": dataset.masks.settings.unmasked_weight}
    is_white = any(image.is_on_white for image in dataset.images)
    return fields | {"mask_background": WHITE} if is_white else fields


def _references(dataset: Dataset) -> Json:
    """The references of images; nothing without any, so that older checkpoints can be resumed."""
    pairs = sorted(
        [image.inspection.content, *(reference.content for reference in image.references)]
        for image in dataset.images
        if image.references
    )
    return {"references": f"{sum(map(len, pairs)) - len(pairs)}, {_digest(pairs)}"} if pairs else {}


def _repeats(image: CaptionedImage) -> list[int]:
    """How often an image is repeated; nothing for once, so that older checkpoints can still be resumed."""
    return [image.repeats] if image.repeats > 1 else []


def _fields_since_preservation(recipe: Recipe, neutral: tuple[str, ...], text_tokens: int) -> Json:
    """Fields that were added with preservation; left out at their former fixed values, so that older checkpoints can
    still be resumed."""
    fields: Json = {} if text_tokens == FORMER_TEXT_TOKENS else {"text_tokens": text_tokens}
    if recipe.preservation:
        prompts = f"{len(neutral)}, {_digest(neutral)}"
        fields |= {"preservation": recipe.preservation, "neutral_prompts": prompts}
    if recipe.preservation and recipe.preservation_weight != 1:
        fields |= {"preservation_weight": recipe.preservation_weight}
    return fields


def refuse_other_base(found: Json, *, base: str, weights: Path, named: str) -> None:
    """Raise ValueError if the training with the identity `found` was on another base than this one. `refuse_mismatch`
    would say so, too, but only once the images and captions are read."""
    expected = _base(base, weights)
    if found.get(NAME) != expected[NAME]:
        name = printable(reprlib.repr(found.get(NAME)))
        raise ValueError(f"{named} is from a training with {NAME} {name}: expected {base!r}; {ANOTHER_BASE}{named}")
    if found.get(WEIGHTS) != expected[WEIGHTS]:
        those = f"{WEIGHTS} of another model than {base!r}"
        raise ValueError(f"{named} is from a training with {those}: expected the same files; {ANOTHER_BASE}{named}")


def refuse_mismatch(found: Json, expected: Json, named: str) -> None:
    """Raise ValueError with the first field in which two identities differ; `named` is the input that `found` comes
    from."""
    for each in differences(found, expected):
        field, found_value = printable(each.field)[:60], reprlib.repr(each.found)
        raise ValueError(
            f"{named} is from a training with {field} {found_value}: expected {reprlib.repr(each.expected)},"
            " as in this training"
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two identities differ."""

    field: str
    found: object
    expected: object


def differences(found: Json, expected: Json) -> Iterator[Difference]:
    """The fields in which an identity that was read from a file differs from that of this training; what preservation
    asks only if both have it."""
    found, expected = _completed(found), _completed(json.loads(json.dumps(expected)))  # lists for tuples, as in `found`
    is_preserving = found["preservation"] and expected["preservation"]
    for field in dict.fromkeys((*expected, *found)):
        if field in ONLY_WITH_PRESERVATION and not is_preserving:
            continue
        if found.get(field) != expected.get(field):
            yield Difference(field, found.get(field), expected.get(field))


def _completed(identity: Json) -> Json:
    return identity | {field: value for field, value in FORMER.items() if field not in identity}


def folder_name(identity: Json) -> str:
    """The name of the checkpoint folder of a training, from its identity."""
    return _digest(identity)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
