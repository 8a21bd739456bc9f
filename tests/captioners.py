"""Tiny captioners of three classes of transformers with random weights, and one that says what a test wants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BartConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from lora.captioning.captioner import Captioner

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Large random weights, so that different images get different answers
SMALL = {
    "initializer_range": 0.5,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def tokenizer(*more: str, image: str = "<image>") -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte, so that it can write any text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *more, *letters])}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        extra_special_tokens={"image_token": image},
        additional_special_tokens=list(more),
        **ends,
    )


def blip(kind: type[BlipForConditionalGeneration] = BlipForConditionalGeneration) -> tuple[Any, Any]:
    """A model of BLIP's class, which takes no instruction, and its processor."""
    torch.manual_seed(0)
    made = tokenizer()
    ids = {"bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
    text = {**SMALL, **ids, "vocab_size": len(made), "max_position_embeddings": 256, "encoder_hidden_size": 32}
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
    model = kind(config)
    writable = [made.convert_tokens_to_ids(letter) for letter in "ĠABCDEFGHIJabcdefghij"]  # Ġ is a space
    bias = torch.full((len(made),), -1e4)
    bias[writable] = 0.0
    model.text_decoder.cls.predictions.bias.data = bias  # it writes words, and never ends
    return model, BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), made)


def florence() -> tuple[Any, Any]:
    """A model of Florence-2's class, which takes a task token, and its processor."""
    torch.manual_seed(0)
    made = tokenizer()
    sides = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2}
    text = BartConfig(
        vocab_size=len(made), max_position_embeddings=256, forced_eos_token_id=None, **sides, **heads, **ids
    )
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 16, 16, 32),
        "num_heads": (1, 2, 2, 2),
        "num_groups": (1, 2, 2, 2),
    }
    config = Florence2Config(
        text_config=text.to_dict(), vision_config={**vision, "projection_dim": 32, "window_size": 4}, image_token_id=4
    )
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, resample=3)
    images.image_seq_length = 5
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = made.convert_tokens_to_ids(
        "A"
    )  # its random weights would end at once
    return model, Florence2Processor(images, made)


def qwen() -> tuple[Any, Any]:
    """A model of Qwen3-VL's class, which has a chat template, and its processor."""
    torch.manual_seed(0)
    made = tokenizer(*VISION, image="<|image_pad|>")
    number = {name: made.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "image_pad", "video_pad")}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {**SMALL, "vocab_size": len(made), "num_key_value_heads": 1, "head_dim": 8, "rope_parameters": rope}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {
        "depth": 1,
        "initializer_range": 0.5,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    config = Qwen3VLConfig(
        text_config={**text, **ids},
        vision_config={**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": (0,)},
        image_token_id=number["image_pad"],
        video_token_id=number["video_pad"],
        vision_start_token_id=number["vision_start"],
        vision_end_token_id=made.convert_tokens_to_ids("<|vision_end|>"),
    )
    # as published, but for fewer pixels: sizes are areas here
    images = Qwen2VLImageProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}, patch_size=16)
    processor = Qwen3VLProcessor(images, made, Qwen3VLVideoProcessor(), chat_template=CHAT_TEMPLATE)
    return Qwen3VLForConditionalGeneration(config), processor


def saved(made: tuple[Any, Any], folder: Path) -> Path:
    """Save a captioner as it is published, and return its folder."""
    model, processor = made
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class Speaker(BlipForConditionalGeneration):
    """A model that writes a given text about red, lime or blue images, or raises a given error."""

    says: Mapping[str, str | Exception] = {}
    batches: tuple[int, ...] = ()  # the numbers of images that it was asked about at a time

    def generate(self, pixel_values: Tensor, **_: object) -> Tensor:
        """Token ids of the texts; of an error, nothing else."""
        type(self).batches += (len(pixel_values),)
        channels = pixel_values.mean((2, 3)).argmax(1).tolist()
        texts = [self.says[("red", "lime", "blue")[channel]] for channel in channels]
        for text in texts:
            if isinstance(text, Exception):
                raise text
        return tokenizer()([f"{text}</s>" for text in texts], padding=True, return_tensors="pt")["input_ids"]


def speaker(**says: str | Exception) -> tuple[type[Speaker], Captioner]:
    """A captioner that says this about images in these colors; its class tells how it was asked."""
    kind = type("ThisSpeaker", (Speaker,), {"says": says})
    return kind, Captioner(*blip(kind), check=lambda: None)
