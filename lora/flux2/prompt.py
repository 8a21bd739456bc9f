"""Encode prompts with Qwen3, as the transformer takes them."""

from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from transformers import Qwen2TokenizerFast, Qwen3Config

from lora.base.components import ComponentError, load_tokenizer, wrap_loading_errors
from lora.base.device import on_device
from lora.base.family import TRANSFORMER, TextEncoding
from lora.base.prompt import Prompt
from lora.flux2.components import QWEN3, TOKENIZER

MAX_TEXT_TOKENS = 512  # for every base, whatever its tokenizer allows, as in Flux2KleinPipeline
LAYERS = (9, 18, 27)  # the hidden states that make up a token of a prompt, side by side, as in Flux2KleinPipeline


@torch.no_grad()
def encode_prompt(encoders: Flux2KleinPipeline, text: str) -> Prompt:
    """Encode one text as the pipeline does for generation: in Qwen3's chat template, padded to `text_tokens`, and cut
    off there with what the template adds at its end. `pooled` is None.

    Runs on the device of the transformer, or of Qwen3 if there is none. If Qwen3 is on another device, it is moved
    there for the duration of the call, one block at a time. The result is on that device, tokens [T, D] in Qwen3's
    precision.
    """
    encoder = encoders.text_encoder
    device = (encoder if encoders.transformer is None else encoders.transformer).device
    with on_device(device, encoder, in_turn=encoder.model.layers):
        tokens, _ = encoders.encode_prompt(
            text, device=device, max_sequence_length=text_tokens(encoders), text_encoder_out_layers=LAYERS
        )
    return Prompt(tokens[0], None)


def text_tokens(pipeline: Flux2KleinPipeline) -> int:
    """The number of tokens that every text is padded or truncated to: the tokenizer's `model_max_length`, at most
    512."""
    return min(pipeline.tokenizer.model_max_length, MAX_TEXT_TOKENS)


def text_tokens_of(base: Path) -> int:
    """`text_tokens` for the folder of a base, without loading weights. Raises ValueError with one sentence if its
    tokenizer cannot be loaded or has no chat template."""
    tokenizer = load_tokenizer(base / TOKENIZER, Qwen2TokenizerFast)
    if not tokenizer.chat_template:
        raise ValueError(f"{base / TOKENIZER} has no chat template: expected chat_template.jinja, as in FLUX.2 [klein]")
    return min(tokenizer.model_max_length, MAX_TEXT_TOKENS)


def token_count(encoders: Flux2KleinPipeline, text: str) -> int:
    """The number of tokens of a text in the chat template, which adds some itself; those beyond `text_tokens` are cut
    off."""
    tokenizer = encoders.tokenizer
    templated = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return len(tokenizer(templated, verbose=False).input_ids)


def _token_width(base: Path) -> int:
    """The width of an encoded token. Raises ValueError with one sentence if the text encoder has too few layers for
    it, or is not the one that the transformer was trained with."""
    with wrap_loading_errors(base / QWEN3):
        encoder = Qwen3Config.from_pretrained(base / QWEN3, local_files_only=True)
        if (count := encoder.num_hidden_layers) < max(LAYERS):
            raise ComponentError(f"{base / QWEN3} has {count} layers: expected at least {max(LAYERS)}, as in Qwen3-4B")
    width = len(LAYERS) * encoder.hidden_size
    with wrap_loading_errors(base / TRANSFORMER):
        expected = Flux2Transformer2DModel.load_config(base / TRANSFORMER)["joint_attention_dim"]
    if width != expected:
        raise ValueError(
            f"{base / QWEN3} encodes a token as {width} numbers: expected {expected}, as its transformer takes them;"
            " use the text encoder and the transformer of the same base"
        )
    return width


TEXT = TextEncoding(
    encode=encode_prompt,
    length=text_tokens,
    length_of=text_tokens_of,
    count=token_count,
    width_of=_token_width,
    has_negative=True,
)
