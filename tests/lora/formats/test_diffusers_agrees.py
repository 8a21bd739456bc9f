"""Wherever diffusers reads a layout, it makes the same changes of it as we do."""

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
# The layers of which diffusers makes what their trainer meant. Of kohya's final layers it takes no alpha, and of
# OneTrainer's layers beside the attention all are one to it.
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
    """Of so many blocks as those of FLUX.1 are; diffusers' converters hold their width for given."""
    with torch.device("meta"):
        return linear_shapes(FluxTransformer2DModel(num_layers=double, num_single_layers=single, guidance_embeds=True))


def distance(first, second):
    """By how much two products of matrices differ (Frobenius), of the norm of the first, without forming them."""
    up = torch.cat([first[0], -second[0]], dim=1).double()
    down = torch.cat([first[1], second[1]]).double()
    return norm(up, down) / norm(first[0].double(), first[1].double())


def norm(up, down):
    return torch.linalg.norm(torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T).item()


def assert_converted(tensors):
    ours = convert_lora(tensors).transformer
    # It forgets the prefix of layers outside the blocks, and then passes them over.
    theirs = {n.removeprefix("transformer."): t for n, t in FluxPipeline.lora_state_dict(dict(tensors)).items()}
    assert theirs.keys() == {f"{layer}.lora_{half}.weight" for layer in ours for half in "AB"}
    for layer, pair in ours.items():
        down, up = (theirs[f"{layer}.lora_{half}.weight"] for half in "AB")
        assert distance((pair.up, pair.down), (up, down)) < EXACT, layer


@pytest.mark.parametrize("name", CONVERTED)
def test_the_converter_makes_the_same_changes(name):
    assert_converted(LAYOUTS[name].tensors(full_width_shapes(), only=CONVERTED[name]))


def test_the_converter_makes_the_same_changes_of_a_lora_by_fal():
    """It takes such a LoRA only if it is on every block and the last layer."""
    shapes = full_width_shapes(double=19, single=38)
    assert_converted(LAYOUTS["fal"].tensors(shapes, only=r"blocks|final_layer\.linear"))


@pytest.mark.parametrize("name", LOADED)
def test_a_pipeline_that_loads_the_file_itself_is_changed_as_much(name):
    pipeline = tiny_pipeline()
    tensors = LAYOUTS[name].tensors(linear_shapes(pipeline.transformer), only=LOADED[name])
    pipeline.load_lora_weights(dict(tensors), adapter_name="theirs")
    layers = {n: layer for n, layer in pipeline.transformer.named_modules() if isinstance(layer, LoraLayer)}
    ours = convert_lora(tensors).transformer
    assert layers.keys() == ours.keys()
    for layer, pair in ours.items():
        found = layers[layer].get_delta_weight("theirs")
        assert (found - pair.up @ pair.down).norm() < EXACT * found.norm(), layer
