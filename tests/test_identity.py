"""Stock diffusers and our predictor generate the same pixels with a LoRA that the trainer wrote."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora.families.loading import load_pipeline
from lora.flux.sampling import SAMPLING
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from lora.serving.generation import generate
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.request import Request
from tests.servers import Tar
from weights.bases import WEIGHTS
from weights.references import read_lora

pytestmark = pytest.mark.xdist_group("servers")
BASE = WEIGHTS / "tiny-flux"
LOADED = "the base is loaded"
STOCK = f"""
import sys, warnings
import diffusers, torch, transformers
base, lora, output = sys.argv[1:]
with warnings.catch_warnings():
    warnings.simplefilter("error")
    from diffusers import FluxPipeline
    pipeline = FluxPipeline.from_pretrained(base)
print({LOADED!r}, file=sys.stderr)
pipeline.load_lora_weights(lora, weight_name="lora.safetensors")
image = pipeline("TOK in a meadow", width=96, height=64, num_inference_steps=3, guidance_scale=3.5,
                 max_sequence_length=pipeline.tokenizer_2.model_max_length,
                 generator=torch.Generator().manual_seed(5)).images[0]
image.save(output)
"""


@dataclass(frozen=True)
class StockRun:
    """A process without any of our code that generated an image with a LoRA of the trainer."""

    stderr: str
    tar: Path
    image: Path


@pytest.fixture(scope="module")
def stock(trained_tar: bytes, tmp_path_factory: pytest.TempPathFactory) -> StockRun:
    folder = tmp_path_factory.mktemp("stock")
    run = StockRun("", folder / "trained_model.tar", folder / "stock.png")
    run.tar.write_bytes(trained_tar)
    (folder / "lora.safetensors").write_bytes(Tar(trained_tar).lora)
    arguments = [str(BASE), str(folder), str(run.image)]
    done = subprocess.run([sys.executable, "-c", STOCK, *arguments], check=True, capture_output=True, text=True)
    return replace(run, stderr=done.stderr)


def test_a_fresh_process_with_stock_diffusers_generates_the_pixels_of_our_predictor(stock: StockRun):
    pipeline = load_pipeline(BASE)
    lora = read_lora(str(stock.tar), named="lora_weights")
    LoraMerger(pipeline).apply([AppliedLora(lora.digest, convert_lora(lora.tensors, FLUX1), 1.0, "lora_weights")])
    ours = np.asarray(next(generate(pipeline, _request())), dtype=int)
    theirs = np.asarray(Image.open(stock.image), dtype=int)
    assert np.abs(ours - theirs).max() <= 1, "W + BA is rounded once, W x and B A x twice"


def test_stock_diffusers_loads_the_base_without_a_warning(stock: StockRun):
    loading, loaded, _ = stock.stderr.partition(LOADED)
    assert loaded
    assert "warn" not in loading.lower(), loading


def _request() -> Request:
    return Request.checked(
        defaults=SAMPLING.defaults,
        negative_prompt=None,
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
