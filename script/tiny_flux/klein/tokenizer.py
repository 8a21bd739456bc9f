"""tiny-flux2's tokenizer: byte-level encoding as Qwen's, words of captions as tokens, and a chat template."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

from script.tiny_flux.captions import vocabulary
from script.tiny_flux.creatures import SYLLABLES

TEXT_TOKENS = 48  # 12 of the template, 19 of the longest caption of this world, and some more for other words
PIECES = 700  # at most: the bytes, the words and syllables, and what these are merged from
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINKING = ["<think>", "</think>"]
TEMPLATE_WORDS = ["user\n", "assistant\n", "\n\n"]
# That of Qwen3 for plain messages, but for the space before them: so a word is the same token wherever it is.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n ' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


def build_tokenizer() -> Qwen2TokenizerFast:
    """Build the tokenizer. Every byte is a token, so it encodes any text; every word of the captions is one, too."""
    pieces, merges = _pieces()
    tokenizer = Qwen2TokenizerFast(
        vocab=pieces,
        merges=merges,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        extra_special_tokens=[START],
        model_max_length=TEXT_TOKENS,
    )
    tokenizer.add_tokens(THINKING)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges of a byte-pair encoding of the words, and of syllables for made-up words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Qwen2TokenizerFast().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words = [f" {word}" for word in (*vocabulary(), *SYLLABLES)]
    tokenizer.train_from_iterator([*words, *SYLLABLES, *TEMPLATE_WORDS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]
