"""The model card of a LoRA: README.md, as Hugging Face and its LoRA widgets read it. Knows no file."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from huggingface_hub import ModelCard, ModelCardData

from lora.publishing.usage import BaseModel, comfyui_usage, diffusers_usage

# `lora` with base_model and its relation is what inference providers look for, template:sd-lora what the widget of
# diffusers' LoRAs does (huggingface.co/docs/inference-providers/register-as-a-provider, diffusers' own model cards).
TAGS, WIDGET_TAG = ("flux", "lora", "diffusers"), "template:sd-lora"
OTHER_LICENCE = "other"  # what the Hub calls a licence that is not in its list


@dataclass(frozen=True, slots=True)
class Licence:
    """The licence of a LoRA."""

    name: str
    link: str | None  # None if only the base's own licence is known
    has_hub_name: bool  # the Hub knows it by its name in lower case


@dataclass(frozen=True, slots=True)
class CardImage:
    """A sample image that the card shows."""

    path: str  # in the repository, as the tar has it too
    prompt: str
    seed: int
    step: int
    references: tuple[str, ...] = ()  # the paths of the images that it was generated beside


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """The mean loss on held-out images, before the training and of what it returned."""

    before: float
    after: float
    step: int  # of `after`


@dataclass(frozen=True, slots=True)
class CardContents:
    """Everything that a card is made from."""

    base: BaseModel
    licence: Licence
    trigger_word: str  # may be empty
    example: str  # a prompt
    images: tuple[CardImage, ...]  # of all steps
    exported_step: int | None
    summary: str  # how the training went
    held_out: HeldOutLoss | None
    settings: tuple[tuple[str, str], ...]
    repository: str | None  # owner/name; None in the tar
    edits: bool = False  # whether it edits images that are given, with the prompt as the instruction


@dataclass(frozen=True, slots=True)
class Shown:
    """The images of one prompt: before the training, if there is one, and after it."""

    before: CardImage | None
    after: CardImage


def card_of(contents: CardContents) -> str:
    """The card: metadata as YAML, then Markdown. The same contents give the same text."""
    shown = list(_shown(contents))
    body = "\n".join(_body(contents, shown))
    return str(ModelCard(f"---\n{_metadata(contents, shown).to_yaml(line_break=chr(10))}\n---\n\n{body}"))


def code_span(text: str) -> str:
    """Text as code in Markdown, whatever is in it; a fence is longer than any in the text (CommonMark 6.1)."""
    line = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def _metadata(contents: CardContents, shown: Sequence[Shown]) -> ModelCardData:
    base, licence = contents.base.repository, contents.licence
    is_other = licence.link is not None and not licence.has_hub_name
    task = "image-to-image" if contents.edits else "text-to-image"
    tags = [*TAGS, task, WIDGET_TAG, *([f"base_model:adapter:{base}"] if base else [])]
    widget = [{"text": each.after.prompt, "output": {"url": each.after.path}} for each in shown]
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="diffusers",
        pipeline_tag=task,
        license=OTHER_LICENCE if is_other else licence.name.lower() if licence.link else None,
        license_name=licence.name if is_other else None,
        license_link=licence.link if is_other else None,
        tags=tags,
        instance_prompt=contents.trigger_word or None,
        widget=widget or None,
    )


def _shown(contents: CardContents) -> Iterator[Shown]:
    """The images of each prompt nearest to the exported step, and those before the training."""
    by_seed: dict[int, list[CardImage]] = {}
    for image in contents.images:
        by_seed.setdefault(image.seed, []).append(image)
    for _, images in sorted(by_seed.items()):
        trained = [image for image in images if image.step > 0]
        if trained:
            step = contents.exported_step
            after = max(trained, key=lambda image: (0 if step is None else -abs(image.step - step), image.step))
            yield Shown(next((image for image in images if image.step == 0), None), after)


def _body(contents: CardContents, shown: Sequence[Shown]) -> Iterator[str]:
    trigger = contents.trigger_word
    yield f"# {_heading(trigger)}\n"
    yield f"A LoRA for {contents.base.name}.\n"
    if contents.edits:
        yield "It edits images: give the image as a reference, and the instruction as the prompt.\n"
    if shown:
        yield "<Gallery />\n"
    yield "## Trigger word\n"
    yield (
        f"Write {code_span(trigger)} into the prompt, spelled like this.\n"
        if trigger
        else "There is none: prompt as without the LoRA.\n"
    )
    yield from _images(shown)
    yield "## Use it\n"
    yield (
        "Start with strength 1, and take 0.8 if every image looks like the training images. The strength is"
        " `lora_scale` here, `strength_model` in ComfyUI, and the weight of the adapter in diffusers.\n"
    )
    yield from diffusers_usage(contents.base, contents.repository, contents.example, edits=contents.edits)
    yield from comfyui_usage(contents.repository)
    yield from _training(contents)
    yield from _licence(contents)


def _heading(trigger: str) -> str:
    return f"{code_span(trigger)} LoRA" if trigger else "LoRA"


def _images(shown: Sequence[Shown]) -> Iterator[str]:
    if not shown:
        return
    yield "## Before and after the training\n"
    for each in shown:
        yield f"{code_span(each.after.prompt)}, seed {each.after.seed}:\n"
        pictures = [each.before, each.after] if each.before else [each.after]
        references = [f"![reference](<{path}>)" for path in each.after.references]
        yield " ".join([*references, *(f"![step {image.step}](<{image.path}>)" for image in pictures)]) + "\n"


def _training(contents: CardContents) -> Iterator[str]:
    yield "## Training\n"
    if contents.summary:
        yield f"{contents.summary}\n"
    if held_out := contents.held_out:
        yield (
            f"Loss on held-out images: {held_out.before:.4f} before the training, {held_out.after:.4f} at step"
            f" {held_out.step}.\n"
        )
    yield from (f"- {name}: {code_span(value)}" for name, value in contents.settings)
    yield ""


def _licence(contents: CardContents) -> Iterator[str]:
    licence = contents.licence
    yield "## Licence\n"
    name = f"[{licence.name}]({licence.link})" if licence.link else licence.name
    yield f"{name}. The file `NOTICE` has the terms of the base model, which hold for this LoRA too.\n"
