"""tiny-flux's two tokenizers, built from the words of its captions. Other text falls back to single characters."""

import json
import math
from collections import Counter
from dataclasses import dataclass

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5TokenizerFast

from script.tiny_flux.captions import vocabulary
from script.tiny_flux.creatures import SYLLABLES

CLIP_TOKENS = 77  # the text length of FLUX's CLIP
TEXT_TOKENS = 32  # the text length of T5; every caption of this world fits
CLIP_PIECES = 256 + 300  # the byte alphabet with and without end of word, and the merges
PRINTABLE = tuple(chr(code) for code in range(33, 127))
WORD_START = "\u2581"  # T5's mark for the space before a word


@dataclass(frozen=True, slots=True)
class Tokenizers:
    """The tokenizers of CLIP and of T5."""

    clip: CLIPTokenizer
    t5: T5TokenizerFast


def build_tokenizers() -> Tokenizers:
    """Build both tokenizers."""
    return Tokenizers(build_clip_tokenizer(), build_t5_tokenizer())


def build_clip_tokenizer() -> CLIPTokenizer:
    """Build a byte-pair encoding that is trained on the captions and contains the whole byte alphabet."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=CLIP_PIECES, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([word.lower() for word in vocabulary()], trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=CLIP_TOKENS)


def build_t5_tokenizer() -> T5TokenizerFast:
    """Build a unigram vocabulary: words by their frequency in captions, then syllables, then single characters."""
    words = Counter(vocabulary())
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    pieces |= {WORD_START + word: math.log(count / words.total()) for word, count in sorted(words.items())}
    for score, texts in ((-9.0, SYLLABLES), (-12.0, PRINTABLE)):
        for text in texts:
            pieces.setdefault(WORD_START + text, score)
            pieces.setdefault(text, score)
    pieces.setdefault(WORD_START, -11.0)
    return T5TokenizerFast(vocab=list(pieces.items()), extra_ids=0, model_max_length=TEXT_TOKENS)
