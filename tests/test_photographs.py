"""Training on real photographs: crops of a sample image from scikit-image."""

import tarfile
import zipfile
from pathlib import Path

import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load

from bench.planted import photograph
from lora.families.frozen_transformer import WeightPlacement, load_transformer
from lora.families.loading import load_encoders
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.result.output import LORA_NAME, check_tar
from script.tiny_flux.learning import encoded, losses
from tests.tiny import a_recipe, all_layers, read_archive, trained, written
from weights.bases import WEIGHTS

BASE = WEIGHTS / "tiny-flux"
CPU = torch.device("cpu")
SIDE = 256


def cat_crops() -> list[Image.Image]:
    """Eight overlapping crops of a photograph of a cat's face, 451 x 300 pixels."""
    photo = photograph("chelsea")
    return [photo.crop((left, top, left + SIDE, top + SIDE)) for top in (0, 40) for left in (40, 90, 140, 190)]


def test_a_lora_trained_on_photographs_reduces_the_held_out_loss_and_loads_into_diffusers(tmp_path: Path):
    archive = tmp_path / "cat.zip"
    crops = cat_crops()
    with zipfile.ZipFile(archive, "w") as file:
        for index, crop in enumerate(crops[:6]):
            with file.open(f"cat {index}.jpg", "w") as member:
                crop.save(member, "jpeg", quality=92)
    recipe = a_recipe(steps=50, learning_rate=5e-4, batch_size=1, lora_rank=8)
    encoders, transformer = load_encoders(BASE, on=CPU), load_transformer(BASE, WeightPlacement("fp32", False, CPU))
    found = read_archive(archive, into=tmp_path / "dataset", resolutions=(SIDE,))
    dataset = found.encoded(encoders)
    held_out = encoded(encoders, [(crop, "TOK") for crop in crops[6:]])
    before = losses(transformer, held_out)
    add_lora(transformer, layers=all_layers(transformer), rank=recipe.lora_rank, seed=recipe.seed)
    trained(transformer, recipe, dataset)
    after = losses(transformer, held_out)
    print(f"\nheld-out loss on photographs: {before.mean:.4f} to {after.mean:.4f}")
    assert all(b < a for a, b in zip(before.by_image, after.by_image, strict=True))

    tar = written(transformer, found.dataset, tmp_path, base_model="tiny")
    check_tar(tar, lora_tensors(transformer))
    with tarfile.open(tar) as opened:
        tensors = load(opened.extractfile(LORA_NAME).read())
    stock = FluxPipeline.from_pretrained(BASE)
    stock.load_lora_weights(tensors, adapter_name="cat")
    assert stock.get_active_adapters() == ["cat"]
