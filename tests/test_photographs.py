"""The same job on real photographs: crops of the sample photos that scikit-image bundles."""

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skimage
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load

from lora.dataset.report import report_on
from lora.flux.loading import load_encoders, load_transformer
from lora.training.adapter import add_lora
from lora.training.flow import Shift
from lora.training.loop import train_lora
from lora.training.output import LORA_NAME, check_tar, write_tar
from script.tiny_flux.learning import encoded, losses
from tests.tiny import a_config, found_in
from weights.bases import WEIGHTS

pytestmark = pytest.mark.xdist_group("photographs")
BASE = WEIGHTS / "tiny-flux"
SIDE = 256


def cat_crops() -> list[Image.Image]:
    """Eight overlapping crops of a cat's face, a photograph of 451 x 300 pixels."""
    photo = Image.fromarray(np.asarray(skimage.data.chelsea()))
    return [photo.crop((left, top, left + SIDE, top + SIDE)) for top in (0, 40) for left in (40, 90, 140, 190)]


def test_a_lora_of_photographs_learns_and_loads(tmp_path: Path):
    archive = tmp_path / "cat.zip"
    crops = cat_crops()
    with zipfile.ZipFile(archive, "w") as file:
        for index, crop in enumerate(crops[:6]):
            with file.open(f"cat {index}.jpg", "w") as member:
                crop.save(member, "jpeg", quality=92)
    config = a_config(steps=50, learning_rate=5e-4, batch_size=1, resolutions=(SIDE,), lora_rank=8)
    encoders, transformer = load_encoders(BASE), load_transformer(BASE)
    found = found_in(archive, into=tmp_path / "dataset", resolutions=config.resolutions)
    dataset = found.encoded(encoders)
    held_out = encoded(encoders, [(crop, "TOK") for crop in crops[6:]])
    before = losses(transformer, held_out)
    add_lora(transformer, rank=config.lora_rank, seed=config.seed)
    train_lora(transformer, dataset, config, shift=Shift.of(encoders.scheduler), report=lambda step, loss: None)
    after = losses(transformer, held_out)
    print(f"\nheld-out loss on photographs: {before.mean:.4f} to {after.mean:.4f}")
    assert all(b < a for a, b in zip(before.by_picture, after.by_picture, strict=True))

    report = report_on(found.dataset, rule=config.prompt_rule, resolutions=config.resolutions)
    tar = write_tar(transformer, found.dataset, report, config, base="tiny", into=tmp_path)
    check_tar(tar, transformer)
    with tarfile.open(tar) as opened:
        tensors = load(opened.extractfile(LORA_NAME).read())
    stock = FluxPipeline.from_pretrained(BASE)
    stock.load_lora_weights(tensors, adapter_name="cat")
    assert stock.get_active_adapters() == ["cat"]
