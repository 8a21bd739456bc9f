"""Encode prompts with the two text encoders, as the transformer takes them."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import FluxPipeline
from transformers import PreTrainedTokenizerBase, T5Tokenizer

from lora.base.components import load_tokenizer
from lora.base.device import on_device
from lora.base.family import TextEncoding
from lora.base.prompt import Prompt
from lora.flux.components import T5, T5_TOKENIZER

# The maximum for a base, whatever its tokenizer allows. Padding takes part in attention, so training pads as sampling
# does: FLUX.1-dev to 512 tokens, FLUX.1-schnell to 256 (huggingface.co/black-forest-labs/FLUX.1-schnell).
MAX_TEXT_TOKENS, MAX_TEXT_TOKENS_WITHOUT_GUIDANCE = 512, 256


@torch.no_grad()
def encode_prompt(encoders: FluxPipeline, text: str) -> Prompt:
    """Encode one text as the pipeline does for generation: T5 padded to `text_tokens` without a mask, CLIP pooled.

    Runs on the device of the transformer, or of T5 if there is none. Encoders on another device are moved there for the
    duration of the call, T5 one block at a time. The result is on that device, tokens [T, D] in the precision of T5 and
    pooled [P] in that of CLIP.
    """
    clip, t5 = encoders.text_encoder, encoders.text_encoder_2
    device = (t5 if encoders.transformer is None else encoders.transformer).device
    with on_device(device, clip, t5, in_turn=t5.encoder.block), _quiet():
        tokens, pooled, _ = encoders.encode_prompt(
            prompt=text, prompt_2=None, device=device, max_sequence_length=text_tokens(encoders)
        )
    return Prompt(tokens[0], pooled[0])


def text_tokens(pipeline: FluxPipeline) -> int:
    """The number of tokens that every text is padded or truncated to: `tokenizer_2.model_max_length`, at most 512, or
    256 for a base without guidance. A pipeline without a transformer counts as one with guidance, as only such a base
    can be trained."""
    has_guidance = pipeline.transformer is None or pipeline.transformer.config.guidance_embeds
    most = MAX_TEXT_TOKENS if has_guidance else MAX_TEXT_TOKENS_WITHOUT_GUIDANCE
    return min(pipeline.tokenizer_2.model_max_length, most)


def text_tokens_of(base: Path) -> int:
    """`text_tokens` for the folder of a base that can be trained, without loading weights. Raises ValueError with one
    sentence if its T5 tokenizer cannot be loaded."""
    return min(load_tokenizer(base / T5_TOKENIZER, T5Tokenizer).model_max_length, MAX_TEXT_TOKENS)


def token_count(encoders: FluxPipeline, text: str) -> int:
    """The number of T5 tokens of a text, including the end token; those beyond `text_tokens` are cut off."""
    return len(encoders.tokenizer_2(text, verbose=False).input_ids)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning about each text that is longer than CLIP or T5 accepts; `token_count` gives the number for
    T5."""
    loggers = [logging.getLogger(name) for name in (FluxPipeline.__module__, PreTrainedTokenizerBase.__module__)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _token_width(base: Path) -> int:
    return int(json.loads((base / T5 / "config.json").read_text())["d_model"])


TEXT = TextEncoding(
    encode=encode_prompt,
    length=text_tokens,
    length_of=text_tokens_of,
    count=token_count,
    width_of=_token_width,
    has_negative=False,
)
