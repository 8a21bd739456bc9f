"""Captioned images become tensors, once. Knows the encoders, not the transformer."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxPipeline
from torch import Tensor

from lora.dataset.cache import Cache
from lora.dataset.cache_keys import Keys
from lora.dataset.inspection import Inspector
from lora.dataset.latents import Fitted, encode_images
from lora.dataset.reading import Dataset
from lora.dataset.wording import counted, named
from lora.flux.loading import visiting
from lora.flux.prompt import Prompt, encode_prompt, text_tokens, text_tokens_of, token_count

LATENT_BYTES = 16 * 4 / 8**2  # a pixel: 16 channels in fp32, of squares of 8 pixels a side
MOST_BYTES_OF_A_NUMBER = 4


@dataclass(frozen=True, slots=True)
class Example:
    """One view of an image, with its caption."""

    latents: Tensor  # [C, H, W] fp32, scaled as the transformer knows them
    prompt: Prompt
    content: str  # sha256 of the image's file: equal for all views of an image, and for its copies


@dataclass(frozen=True, slots=True)
class ExtraTexts:
    """What is to be encoded beside the captions."""

    dropped: str  # the trigger word alone, or nothing
    samples: tuple[str, ...]
    neutral: tuple[str, ...]  # for preservation


@dataclass(frozen=True, slots=True)
class EncodedDataset:
    """All that training needs to see."""

    examples: tuple[Example, ...]
    dropped: Prompt  # takes the place of a dropped caption
    samples: tuple[Prompt, ...] = ()  # to be drawn now and then
    neutral: tuple[Prompt, ...] = ()  # of images that the base generates for preservation
    cut: tuple[str, ...] = ()  # images whose prompt is longer than T5 reads

    def summary(self) -> str:
        """For a person: what was encoded, and a warning if a prompt was cut."""
        encoded = f"encoded {counted(len(self.examples), 'example')}"
        most = len(self.dropped.tokens)
        cut = f"{counted(len(self.cut), 'prompt')} longer than {most} tokens, cut: {named(list(self.cut))}"
        return f"{encoded}\n{cut}" if self.cut else encoded


def encoded_bytes(dataset: Dataset, base: Path, *, extra_texts: int) -> int:
    """How many bytes the tensors of a data set and so many more texts take at the most, with the encoders of a base."""
    width = json.loads((base / "text_encoder_2/config.json").read_text())["d_model"]
    fitted = {Fitted(image.look.content, view) for image in dataset.images for view in image.look.views}
    pixels = sum(each.view.size.pixels for each in fitted)
    texts = len({image.prompt for image in dataset.images}) + extra_texts
    return int(pixels * LATENT_BYTES) + texts * text_tokens_of(base) * width * MOST_BYTES_OF_A_NUMBER


@torch.no_grad()
def encode_dataset(
    encoders: FluxPipeline,
    dataset: Dataset,
    inspector: Inspector,
    extra: ExtraTexts,
    *,
    on: torch.device,
    keys: Keys,
    cache: Cache,
) -> EncodedDataset:
    """Encode every view of every image, and each distinct text once. Tensors are on the CPU.

    The encoders work on a device, where each is only for as long as it takes if they live elsewhere.
    """
    with visiting(on, encoders.vae):
        latents = encode_images(encoders.vae, dataset.images, inspector, keys=keys, cache=cache)
    texts = {image.prompt for image in dataset.images} | {extra.dropped, *extra.samples, *extra.neutral}
    with visiting(on, encoders.text_encoder, encoders.text_encoder_2):
        prompts = {text: _encoded_text(encoders, text, keys=keys, cache=cache) for text in sorted(texts)}
    examples = [
        Example(latents[Fitted(image.look.content, view)], prompts[image.prompt], image.look.content)
        for image in dataset.images
        for view in image.look.views
    ]
    counted_images = [(image.name, token_count(encoders, image.prompt)) for image in dataset.images]
    cut = tuple(f"{name} ({count} tokens)" for name, count in counted_images if count > text_tokens(encoders))
    samples, neutral = (tuple(prompts[text] for text in texts) for texts in (extra.samples, extra.neutral))
    return EncodedDataset(tuple(examples), prompts[extra.dropped], samples, neutral, cut)


def _encoded_text(encoders: FluxPipeline, text: str, *, keys: Keys, cache: Cache) -> Prompt:
    key = keys.prompt(text)
    kept = cache.get(key)
    if kept is None:
        prompt = encode_prompt(encoders, text)
        kept = cache.put(key, {"tokens": prompt.tokens.cpu(), "pooled": prompt.pooled.cpu()})
    return Prompt(kept["tokens"], kept["pooled"])
