"""For every layout that diffusers reads, it computes the same weight deltas as we do."""

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft.tuners.lora import LoraLayer

from lora.formats.reading import convert_lora
from lora.formats.shapes import linear_shapes
from tests.lora.formats.made import LAYOUTS
from tests.tiny import tiny_pipeline

EXACT = 1e-5
ALL, BUT_FINAL, ATTENTION = "", "^(?!final_layer)", r"\.attn\."
# The layers that diffusers converts as their trainer meant them. It ignores the alpha of kohya's final layers, and maps
# all of OneTrainer's layers outside the attention to one.
CONVERTED = {
    "diffusers": ALL,
    "kohya": BUT_FINAL,
    "kohya without alphas": ALL,
    "ComfyUI": BUT_FINAL,
    "XLabs": ALL,
    "XLabs by ComfyUI": ALL,
    "OneTrainer": ATTENTION,
}
LOADED = {"diffusers": ALL, "diffusers with alphas": ALL, "old diffusers": ALL, "OneTrainer": ATTENTION}


def full_width_shapes(*, double=1, single=1):
    """The shapes of a model with blocks of FLUX.1's width, which diffusers' converters assume."""
    with torch.device("meta"):
        return linear_shapes(FluxTransformer2DModel(num_layers=double, num_single_layers=single, guidance_embeds=True))


def distance(first, second):
    """The relative difference of two low-rank products (Frobenius norm), without computing them."""
    up = torch.cat([first[0], -second[0]], dim=1).double()
    down = torch.cat([first[1], second[1]]).double()
    return norm(up, down) / norm(first[0].double(), first[1].double())


def norm(up, down):
    return torch.linalg.norm(torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T).item()


def assert_converted(tensors):
    ours = convert_lora(tensors).transformer
    # It omits the prefix of layers outside the blocks, and would then skip them.
    theirs = {n.removeprefix("transformer."): t for n, t in FluxPipeline.lora_state_dict(dict(tensors)).items()}
    assert theirs.keys() == {f"{layer}.lora_{half}.weight" for layer in ours for half in "AB"}
    for layer, delta in ours.items():
        down, up = (theirs[f"{layer}.lora_{half}.weight"] for half in "AB")
        assert distance((delta.up, delta.down), (up, down)) < EXACT, layer


@pytest.mark.parametrize("name", CONVERTED)
def test_the_converter_computes_the_same_deltas(name):
    assert_converted(LAYOUTS[name].tensors(full_width_shapes(), only=CONVERTED[name]))


def test_the_converter_computes_the_same_deltas_of_a_lora_by_fal():
    """It accepts such a LoRA only if it is on every block and the last layer."""
    shapes = full_width_shapes(double=19, single=38)
    assert_converted(LAYOUTS["fal"].tensors(shapes, only=r"blocks|final_layer\.linear"))


@pytest.mark.parametrize("name", LOADED)
def test_a_pipeline_that_loads_the_file_itself_has_the_same_deltas(name):
    pipeline = tiny_pipeline()
    tensors = LAYOUTS[name].tensors(linear_shapes(pipeline.transformer), only=LOADED[name])
    pipeline.load_lora_weights(dict(tensors), adapter_name="theirs")
    layers = {n: layer for n, layer in pipeline.transformer.named_modules() if isinstance(layer, LoraLayer)}
    ours = convert_lora(tensors).transformer
    assert layers.keys() == ours.keys()
    for layer, delta in ours.items():
        found = layers[layer].get_delta_weight("theirs")
        assert (found - delta.up @ delta.down).norm() < EXACT * found.norm(), layer
