"""A captioner: any image-to-text model that transformers has a class for. Knows images and an instruction, no data set.

No code from a model's folder runs (`trust_remote_code`), and nothing is downloaded.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lora.base.components import FAILURES
from lora.captioning.answers import Answer
from lora.engine.out_of_memory import is_out_of_memory
from lora.families.loading import WITHOUT_THREADS

MAX_NEW_TOKENS = 160  # about 120 English words
TASK = "<MORE_DETAILED_CAPTION>"  # of Florence-2, which takes no other instruction for a caption
LONGEST_REASON = 160  # characters of a library's message
# Greedy, whatever the model's own generation_config.json says: the same image gives the same answer. The numbers for
# sampling are reset because transformers warns about those without effect.
GREEDY = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
EXAMPLES = "Qwen3VLForConditionalGeneration, Florence2ForConditionalGeneration or BlipForConditionalGeneration"


def check_class(folder: Path) -> None:
    """Raise ValueError with one sentence unless the config.json of a folder names an image-to-text class that
    transformers has."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found, kind = config["architectures"][0], config.get("model_type")
    if MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind) != found:
        raise ValueError(
            f"the captioner: {folder / 'config.json'} has the class {str(found)[:80]!r}: expected an image-to-text"
            f" class of transformers, such as {EXAMPLES}; `script/download captioner` downloads one"
        )


class Captioner:
    """Describes images. What it is asked depends on its processor: the instruction, where that has a chat template; the
    task token of Florence-2; nothing otherwise (BLIP)."""

    def __init__(self, model: Any, processor: Any, *, check: Callable[[], None]) -> None:  # noqa: ANN401 (no common type)
        """`check` is called before each block of layers for each token, and ends the work by an exception."""
        self._model, self._processor = model.eval(), processor
        self._takes_instructions = bool(getattr(processor, "chat_template", None))
        self._task = (getattr(processor, "task_prompts_without_inputs", None) or {}).get(TASK, "")
        for blocks in (each for each in model.modules() if isinstance(each, nn.ModuleList)):
            for block in blocks:
                block.register_forward_pre_hook(lambda *_: check())

    @classmethod
    def load(cls, folder: Path, *, on: torch.device, check: Callable[[], None]) -> "Captioner":
        """Load a captioner, in bf16 on a GPU and in fp32 on a CPU.

        Raises ValueError with one sentence if the folder cannot be loaded; what `is_out_of_memory` recognizes, and
        MemoryError, are not turned into it.
        """
        os.environ.setdefault(WITHOUT_THREADS, "1")  # as in lora.families.loading.load_encoders
        transformers.utils.logging.disable_progress_bar()
        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            _ = processor.tokenizer, processor.image_processor
            model = _loaded_model(folder, torch.bfloat16 if on.type == "cuda" else torch.float32)
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
            raise ValueError(
                f"the captioner in {folder} cannot be loaded ({reason}): expected the files of an image-to-text model"
                " that transformers has a class for; `script/download captioner` downloads one, autocaption=false does"
                " without"
            ) from error
        return cls(model.to(on), processor, check=check)

    @torch.inference_mode()
    def answers(self, images: Sequence[Image.Image], instruction: str) -> list[Answer]:
        """What it writes for each image, all of one size, in RGB."""
        asked = instruction if self._takes_instructions else self._task
        inputs = self._inputs(list(images), instruction).to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, **GREEDY, max_new_tokens=MAX_NEW_TOKENS)
        continues_prompt = "input_ids" in inputs and not self._model.config.is_encoder_decoder
        written = tokens[:, inputs["input_ids"].shape[1] :] if continues_prompt else tokens
        texts = self._processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [Answer(text, self._is_cut(row), asked) for text, row in zip(texts, written, strict=True)]

    def _inputs(self, images: list[Image.Image], instruction: str) -> Any:  # noqa: ANN401 (a BatchFeature of any model)
        if self._takes_instructions:
            chats = [[{"role": "user", "content": _content(image, instruction)}] for image in images]
            options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
            return self._processor.apply_chat_template(chats, **options)
        if self._task:
            return self._processor(images=images, text=[TASK] * len(images), return_tensors="pt")
        return self._processor(images=images, return_tensors="pt")

    def _is_cut(self, tokens: Tensor) -> bool:
        """Whether the last of all tokens is no special one, such as the end."""
        return len(tokens) >= MAX_NEW_TOKENS and int(tokens[-1]) not in self._processor.tokenizer.all_special_ids


def _content(image: Image.Image, instruction: str) -> list[dict[str, object]]:
    return [{"type": "image", "image": image}, {"type": "text", "text": instruction}]


def _loaded_model(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 (transformers' models have no type of their own)
    """Load the model, and check that every tensor is in its files: transformers would initialize others randomly."""
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    if wrong := sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"]):
        raise ValueError(f"its weights do not match its config.json at {wrong[0]}")
    return model
