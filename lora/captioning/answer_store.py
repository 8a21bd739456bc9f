"""Keeps the answers of a captioner: on disk for later jobs, so that each image is paid for once. Knows no model."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from lora.base.fingerprint import fingerprint
from lora.captioning.answers import Answer
from lora.dataset.cache import DEFAULT_FOLDER, FOLDER_VARIABLE, DiskCache
from lora.dataset.limits import MEBIBYTE

REVISION = 1  # of the code between an image and the answer: increase it when answers change
MAX_BYTES = 256 * MEBIBYTE  # about 500,000 answers; our choice
ANSWER = TypeAdapter(Answer)


class AnswerStore:
    """Answers by the appearance of the image (lora/dataset/reading.py), of one captioner to one instruction.

    Without a disk that can be written to, they are kept for this job only.
    """

    def __init__(self, folder: Path, instruction: str) -> None:
        """`folder` is that of the captioner. Raises OSError if its files cannot be read."""
        self._prefix = [str(REVISION), fingerprint(folder, ["."]), instruction]
        self._answers: dict[str, Answer] = {}
        try:
            own = Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER)).expanduser() / "captions"
            self._cache: DiskCache | None = DiskCache(own, most_bytes=MAX_BYTES)
        except (OSError, RuntimeError):  # the latter for a user without a home
            self._cache = None

    def get(self, appearance: str) -> Answer | None:
        """The answer for an image, or None."""
        if appearance not in self._answers and self._cache:
            found = self._cache.get(self._key(appearance))
            answer = _answer_in(found.get("answer")) if found else None
            if answer:
                self._answers[appearance] = answer
        return self._answers.get(appearance)

    def put(self, appearance: str, answer: Answer) -> None:
        """Keep the answer for an image."""
        self._answers[appearance] = answer
        text = json.dumps(asdict(answer)).encode()
        if self._cache:
            try:
                self._cache.put(self._key(appearance), {"answer": torch.frombuffer(bytearray(text), dtype=torch.uint8)})
            except (OSError, SafetensorError):  # the disk is full
                self._cache = None

    def _key(self, appearance: str) -> str:
        return hashlib.sha256(json.dumps(["answer", *self._prefix, appearance]).encode()).hexdigest()


def _answer_in(stored: Tensor | None) -> Answer | None:
    """The answer in the bytes of a file; None if it is none."""
    try:
        return None if stored is None else ANSWER.validate_json(bytes(stored.tolist()))
    except (ValidationError, ValueError, TypeError):
        return None
