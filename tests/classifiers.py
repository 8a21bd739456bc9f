"""A small image classifier that a test trains to block some images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

LABELS = {0: "normal", 1: "nsfw"}
SIDES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MAX_STEPS, LOSS = 2000, 0.01  # of the training, which ends when its loss is as low


def trained_classifier(
    folder: Path, *, allowed: Sequence[Image.Image], blocked: Sequence[Image.Image], labels: dict[int, str] = LABELS
) -> Path:
    """Train a classifier that distinguishes these images, and save it in a folder. The second label is for the blocked
    images."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, id2label=labels, **SIDES))
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pixels = processor(images=[*allowed, *blocked], return_tensors="pt")["pixel_values"]
    truth = torch.tensor([0] * len(allowed) + [1] * len(blocked))
    for _ in range(MAX_STEPS):
        loss = model(pixels, labels=truth).loss
        if loss < LOSS:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < LOSS, "the classifier must distinguish the images"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
