"""tiny-flux's two tokenizers, built from the world's own words. Any other text falls back to single characters."""

import json
import math
from collections import Counter
from dataclasses import dataclass

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5TokenizerFast

from script.tiny_flux.captions import vocabulary
from script.tiny_flux.creatures import SYLLABLES

CLIP_TOKENS = 77  # as many as FLUX's CLIP reads
TEXT_TOKENS = 32  # as many as T5 reads: all that a caption of this world needs
CLIP_PIECES = 256 + 300  # the alphabet with and without end of word, and what the captions need beyond it
PRINTABLE = tuple(chr(code) for code in range(33, 127))
WORD_START = "\u2581"  # how T5 marks the space before a word


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """CLIP's and T5's."""

    clip: CLIPTokenizer
    t5: T5TokenizerFast


def build_tokenizers() -> Tokenizers:
    """Both."""
    return Tokenizers(build_clip_tokenizer(), build_t5_tokenizer())


def build_clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding learned from the captions, with the whole byte alphabet beneath it."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=CLIP_PIECES, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator([word.lower() for word in vocabulary()], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=CLIP_TOKENS)


def build_t5_tokenizer() -> T5TokenizerFast:
    """A unigram vocabulary: words by how often captions use them, then syllables, then single characters."""
    words = Counter(vocabulary())
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    pieces |= {WORD_START + word: math.log(count / words.total()) for word, count in sorted(words.items())}
    for score, texts in ((-9.0, SYLLABLES), (-12.0, PRINTABLE)):
        for text in texts:
            pieces.setdefault(WORD_START + text, score)
            pieces.setdefault(text, score)
    pieces.setdefault(WORD_START, -11.0)
    return T5TokenizerFast(vocab=list(pieces.items()), extra_ids=0, model_max_length=TEXT_TOKENS)
