"""Encodes captioned images into latents and text embeddings. Knows the encoders, not the transformer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from lora.base.device import on_device
from lora.base.prompt import Prompt
from lora.dataset.cache import Cache
from lora.dataset.cache_keys import Keys
from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.latents import ImageCrop, encode_images
from lora.dataset.loss_weights import MaskedCrop, loss_weights, weights_of
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.wording import counted, named
from lora.families.registry import family_of, family_of_model

MAX_BYTES_OF_A_NUMBER = 4
WEIGHTS_OF_A_LATENT = 2  # in a masked image: the weight, and the mask that it is computed from


@dataclass(frozen=True, slots=True)
class Example:
    """The latents of one crop of an image, with the encoded caption."""

    latents: Tensor  # [C, H, W] fp32, shifted and scaled as the transformer expects them
    prompt: Prompt
    content: str  # sha256 of the image file: equal for all crops and all copies of an image
    repeats: int = 1  # how often it is in each epoch
    weights: Tensor | None = None  # [H, W] fp32, of the loss at each latent; None if all count the same
    other_prompts: tuple[Prompt, ...] = ()  # of further captions, one of which may take the place of the first
    references: tuple[Tensor, ...] = ()  # as `latents`, in any size: what the image was before the edit, in order


@dataclass(frozen=True, slots=True)
class ExtraTexts:
    """Texts to encode in addition to the captions."""

    dropped: str  # replaces dropped captions: the trigger word alone, or empty
    samples: tuple[str, ...]  # prompts of sample images
    neutral: tuple[str, ...]  # prompts for preservation
    negative: str | None  # the negative prompt of samples; None for a family that needs none

    @property
    def every(self) -> frozenset[str]:
        """All of these texts."""
        negatives = () if self.negative is None else (self.negative,)
        return frozenset((self.dropped, *self.samples, *self.neutral, *negatives))


@dataclass(frozen=True, slots=True)
class EncodedDataset:
    """The encoded examples, and the encoded prompts that training uses beside them."""

    examples: tuple[Example, ...]
    dropped: Prompt  # replaces dropped captions
    samples: tuple[Prompt, ...] = ()  # prompts of sample images
    neutral: tuple[Prompt, ...] = ()  # prompts of the images that the base model generates for preservation
    negative: Prompt | None = None  # the negative prompt of samples
    cut: tuple[str, ...] = ()  # images with prompts longer than the text length of the base model

    def summary(self) -> str:
        """A log message: the number of examples, and a warning if a prompt was truncated."""
        encoded = f"encoded {counted(len(self.examples), 'example')}"
        most = len(self.dropped.tokens)
        cut = f"{counted(len(self.cut), 'prompt')} longer than {most} tokens, cut: {named(list(self.cut))}"
        return f"{encoded}\n{cut}" if self.cut else encoded


def encoded_bytes(dataset: Dataset, base: Path, *, extra_texts: int) -> int:
    """Upper bound on the bytes of the tensors of a data set and of `extra_texts` more texts, for a base model."""
    family = family_of(base)
    crops = {each for image in dataset.images for each in _crops(image)}
    pixels = sum(each.crop.size.pixels for each in crops)
    masked = sum(crop.size.pixels for image in dataset.images if image.mask for crop in image.inspection.crops)
    texts = len(_texts(dataset)) + extra_texts
    numbers = (pixels * family.latents.channels + masked * WEIGHTS_OF_A_LATENT) // family.latents.pixels**2
    numbers += texts * family.text.length_of(base) * family.text.width_of(base)
    return numbers * MAX_BYTES_OF_A_NUMBER


@torch.no_grad()
def encode_dataset(
    encoders: DiffusionPipeline,
    dataset: Dataset,
    inspector: Inspector,
    extra: ExtraTexts,
    *,
    on: torch.device,
    keys: Keys,
    cache: Cache,
    check: Callable[[], None],
) -> EncodedDataset:
    """Encode every crop of every image, and each distinct text once. The resulting tensors are on the CPU.

    The encoders run on the device `on`; encoders that are stored elsewhere are moved there only while they run. `check`
    is called often, and ends the encoding by an exception.
    """
    family = family_of_model(encoders)
    with on_device(on, encoders.vae):
        encode, pixels = partial(family.latents.encode, encoders.vae), family.latents.pixels
        latents = encode_images(encode, dataset.images, inspector, keys=keys, cache=cache, check=check)
    weights = loss_weights(dataset, inspector, pixels_of_a_latent=pixels, keys=keys, cache=cache, check=check)
    texts = _texts(dataset) | extra.every
    with on_device(on, *(getattr(encoders, name) for name in family.components.text_encoders)):
        prompts = {}
        for text in sorted(texts):
            check()
            prompts[text] = _encoded_text(encoders, text, keys=keys, cache=cache)
    examples = [
        example
        for image in dataset.images
        for example in _examples(image, latents, weights, [prompts[text] for text in image.prompts])
    ]
    return EncodedDataset(
        examples=tuple(examples),
        dropped=prompts[extra.dropped],
        samples=tuple(prompts[text] for text in extra.samples),
        neutral=tuple(prompts[text] for text in extra.neutral),
        negative=None if extra.negative is None else prompts[extra.negative],
        cut=_cut(encoders, dataset),
    )


def _cut(encoders: DiffusionPipeline, dataset: Dataset) -> tuple[str, ...]:
    """The images with prompts that are longer than the base's text length."""
    text = family_of_model(encoders).text
    counts = ((image.name, text.count(encoders, prompt)) for image in dataset.images for prompt in image.prompts)
    return tuple(f"{name} ({count} tokens)" for name, count in counts if count > text.length(encoders))


def _crops(image: CaptionedImage) -> Iterator[ImageCrop]:
    """Yield everything of an image that is encoded: its crops, and those of its references."""
    for crop in image.inspection.crops:
        yield ImageCrop.of(image, crop)
        yield from (ImageCrop.of_reference(reference, image, crop) for reference in image.references)


def _examples(
    image: CaptionedImage,
    latents: Mapping[ImageCrop, Tensor],
    weights: Mapping[MaskedCrop, Tensor | None],
    prompts: Sequence[Prompt],
) -> Iterator[Example]:
    """Yield an example for each crop of an image; `prompts` are those of the image."""
    first, *others = prompts
    for crop in image.inspection.crops:
        yield Example(
            latents[ImageCrop.of(image, crop)],
            first,
            image.inspection.content,
            image.repeats,
            weights_of(image, crop, weights),
            tuple(others),
            _references(image, crop, latents),
        )


def _references(image: CaptionedImage, crop: Crop, latents: Mapping[ImageCrop, Tensor]) -> tuple[Tensor, ...]:
    return tuple(latents[ImageCrop.of_reference(reference, image, crop)] for reference in image.references)


def _texts(dataset: Dataset) -> set[str]:
    return {text for image in dataset.images for text in image.prompts}


def _encoded_text(encoders: DiffusionPipeline, text: str, *, keys: Keys, cache: Cache) -> Prompt:
    key = keys.prompt(text)
    cached = cache.get(key)
    if cached is None:
        prompt = family_of_model(encoders).text.encode(encoders, text)
        cached = cache.put(key, prompt.map(Tensor.cpu).tensors())
    return Prompt.of(cached)
