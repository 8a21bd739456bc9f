"""Images that should not be shown are told from others by a classifier. Knows no request and no base model.

The classifier is Falconsai's nsfw_image_detection, which the public predictors use too, or any other of transformers'
image classifiers with a label of that name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

BLOCKED = "nsfw"


class SafetyChecker:
    """Judges images one by one, on the CPU: it is small, and the GPU is busy."""

    def __init__(self, folder: Path) -> None:
        """From a folder in the layout of transformers; raises ValueError with one sentence if it holds no such
        classifier."""
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"no safety checker in {folder} ({reason}): expected an image classifier") from error
        labels = {label.lower(): number for number, label in self._model.config.id2label.items()}
        if BLOCKED not in labels:
            raise ValueError(f"the classifier in {folder} has the labels {', '.join(labels)}: expected {BLOCKED}")
        self._blocked = labels[BLOCKED]

    @torch.inference_mode()
    def blocks(self, image: Image.Image) -> bool:
        """Whether an image is likelier to be of the label than of any other."""
        scores = self._model(**self._processor(images=image.convert("RGB"), return_tensors="pt")).logits[0]
        return int(scores.argmax()) == self._blocked


def allowed(images: Sequence[Image.Image], checker: SafetyChecker | None) -> dict[int, Image.Image]:
    """Those that may be shown, by their places; all of them without a checker. Raises RuntimeError if that is none."""
    shown = {place: image for place, image in enumerate(images) if checker is None or not checker.blocks(image)}
    if not shown:
        which = "the image" if len(images) == 1 else f"all {len(images)} images"
        raise RuntimeError(f"the safety checker blocked {which}: expected another prompt or seed")
    return shown
