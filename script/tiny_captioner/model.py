"""The captioner's network and its processor, of the BLIP classes that transformers has."""

import math
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from script.tiny_captioner.examples import CREATURE
from script.tiny_flux.world import BACKGROUNDS, COLOURS, SHAPES

PAD, START, END, UNKNOWN = SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TEXT_TOKENS = 16  # every caption fits
INITIAL_STD = 0.02  # of weights. BLIP's vision tower would start with positions of 1e-10, which learns no shapes


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of the network."""

    side: int  # of the images that it sees, in pixels
    patch: int  # side of a patch, in pixels
    width: int  # of the vision tower
    layers: int
    text_width: int
    text_layers: int
    heads: int


def build_processor(side: int) -> BlipProcessor:
    """Build the processor of the training, with a token for each word of the captions.

    It squeezes images to `side` x `side`, which shows the shapes in several proportions.
    """
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=TEXT_TOKENS,
    )
    return BlipProcessor(BlipImageProcessor(size={"height": side, "width": side}), fast)


def cropping(processor: BlipProcessor) -> BlipProcessor:
    """Return the processor of the trained captioner.

    It takes the square in the middle of an image, where the world's figures are, and does not distort them.
    """
    size = processor.image_processor.size
    images = BlipImageProcessor(size={"shortest_edge": size["height"]}, do_center_crop=True, crop_size=size)
    return BlipProcessor(images, processor.tokenizer)


def words() -> list[str]:
    """Return every word of the captions."""
    texts = ("a", "an", CREATURE, *COLOURS, *SHAPES, *BACKGROUNDS.values())
    return sorted({word for text in texts for word in text.split()})


def build_model(dimensions: Dimensions, vocabulary: int) -> BlipForConditionalGeneration:
    """Build the network with random weights, and positions that tell neighbours from the start."""
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    text = {
        "vocab_size": vocabulary,
        "hidden_size": dimensions.text_width,
        "intermediate_size": 2 * dimensions.text_width,
        "num_hidden_layers": dimensions.text_layers,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_TOKENS,
        "initializer_range": INITIAL_STD,
        **tokens,
    }
    vision = {
        "image_size": dimensions.side,
        "patch_size": dimensions.patch,
        "hidden_size": dimensions.width,
        "intermediate_size": 3 * dimensions.width,
        "num_hidden_layers": dimensions.layers,
        "num_attention_heads": dimensions.heads,
        "initializer_range": INITIAL_STD,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=8))
    positions = model.vision_model.embeddings.position_embedding
    with torch.no_grad():
        positions[0, 1:] = _positions(dimensions.side // dimensions.patch, dimensions.width)
    return model


def _positions(count: int, width: int) -> Tensor:
    """Return sines and cosines of the row and the column of each patch, [count * count, width], as in "Attention Is All
    You Need", section 3.5, for both directions."""
    quarter = width // 4
    rates = torch.exp(torch.arange(quarter) * (-math.log(2.0 * count) / quarter))
    angles = torch.arange(count)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [count, width / 2]
    rows, columns = line[:, None].expand(-1, count, -1), line[None].expand(count, -1, -1)
    return 0.3 * torch.cat([rows, columns], dim=2).reshape(count * count, width)
