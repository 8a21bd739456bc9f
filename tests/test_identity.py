"""Stock diffusers and our predictor generate the same pixels with a LoRA that the trainer wrote."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora.flux.loading import load_pipeline
from lora.formats.reading import convert_lora
from lora.serving.generation import generate
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.request import Request
from lora.training.result.output import LORA_NAME
from weights.bases import WEIGHTS
from weights.references import read_lora

BASE = WEIGHTS / "tiny-flux"
STOCK = """
import sys, torch
from diffusers import FluxPipeline
base, lora, output = sys.argv[1:]
pipeline = FluxPipeline.from_pretrained(base)
pipeline.load_lora_weights(lora, weight_name="lora.safetensors")
image = pipeline("TOK in a meadow", width=96, height=64, num_inference_steps=3, guidance_scale=3.5,
                 max_sequence_length=pipeline.tokenizer_2.model_max_length,
                 generator=torch.Generator().manual_seed(5)).images[0]
image.save(output)
"""


@pytest.mark.xdist_group("servers")
def test_a_fresh_process_with_stock_diffusers_generates_the_pixels_of_our_predictor(trained_tar: bytes, tmp_path: Path):
    (tmp_path / "trained_model.tar").write_bytes(trained_tar)
    with tarfile.open(fileobj=io.BytesIO(trained_tar)) as tar:
        member = tar.extractfile(LORA_NAME)
        assert member
        (tmp_path / "lora.safetensors").write_bytes(member.read())
    arguments = [str(BASE), str(tmp_path), str(tmp_path / "stock.png")]
    subprocess.run([sys.executable, "-c", STOCK, *arguments], check=True, capture_output=True)

    pipeline = load_pipeline(BASE)
    lora = read_lora(str(tmp_path / "trained_model.tar"), named="lora_weights")
    LoraMerger(pipeline).apply([AppliedLora(lora.digest, convert_lora(lora.tensors), 1.0, "lora_weights")])
    ours = next(generate(pipeline, _request()))
    stock = np.asarray(Image.open(tmp_path / "stock.png"), dtype=int)
    assert np.abs(np.asarray(ours, dtype=int) - stock).max() <= 1, "W + BA is rounded once, W x and B A x twice"


def _request() -> Request:
    return Request.checked(
        takes_guidance=True,
        go_fast=False,
        prompt="TOK in a meadow",
        aspect_ratio="custom",
        megapixels="1",
        width=96,
        height=64,
        num_outputs=1,
        num_inference_steps=3,
        guidance_scale=3.5,
        guidance=None,
        seed=5,
        output_format="png",
        output_quality=90,
    )
