"""Blocks unsafe images with a classifier. Knows no request and no base model.

The classifier is Falconsai's nsfw_image_detection, which the public predictors use too, or any image classifier of
transformers with the label `nsfw`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification

from lora.base.components import FAILURES

BLOCKED = "nsfw"
BLANK = Image.new("RGB", (256, 256))


class SafetyChecker:
    """Classifies images one at a time, on the CPU: the model is small, and the GPU is busy."""

    def __init__(self, folder: Path) -> None:
        """Load a classifier from a folder in the layout of transformers.

        Raises ValueError with one sentence if the folder has no such classifier, or an incomplete or broken one.
        """
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self._model = _loaded(folder)
            scores = self._scores(BLANK)
        except FAILURES as error:
            reason = " ".join(f"{error or type(error).__name__}".split())[:200]
            raise ValueError(f"no safety checker in {folder} ({reason}): expected an image classifier") from error
        if not scores.isfinite().all():
            raise ValueError(f"the classifier in {folder} returns NaN or infinity: expected undamaged weights")
        labels = {label.lower(): number for number, label in self._model.config.id2label.items()}
        if BLOCKED not in labels:
            raise ValueError(f"the classifier in {folder} has the labels {', '.join(labels)}: expected {BLOCKED}")
        self._blocked = labels[BLOCKED]

    def blocks(self, image: Image.Image) -> bool:
        """Whether `nsfw` is the most likely label of an image."""
        return int(self._scores(image.convert("RGB")).argmax()) == self._blocked

    @torch.inference_mode()
    def _scores(self, image: Image.Image) -> Tensor:
        return self._model(**self._processor(images=image, return_tensors="pt")).logits[0]


def _loaded(folder: Path) -> Any:  # noqa: ANN401 (transformers' models have no type of their own)
    """Load a classifier, and check that every tensor is in its file: transformers would initialize others randomly."""
    model, report = AutoModelForImageClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    if wrong := sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"]):
        raise ValueError(f"its weights do not match its config.json at {wrong[0]}")
    return model.eval()


def remove_blocked(images: Sequence[Image.Image], checker: SafetyChecker | None) -> dict[int, Image.Image]:
    """Return the images that are not blocked, by their index; all images if there is no checker.

    Raises RuntimeError if all images are blocked.
    """
    kept = {index: image for index, image in enumerate(images) if checker is None or not checker.blocks(image)}
    if not kept:
        which = "the image" if len(images) == 1 else f"all {len(images)} images"
        raise RuntimeError(f"the safety checker blocked {which}: expected another prompt or seed")
    return kept
