"""For every layout that diffusers reads, it computes the same weight deltas as we do."""

import pytest
import torch
from diffusers import Flux2KleinPipeline, FluxPipeline, FluxTransformer2DModel
from peft.tuners.lokr import LoKrLayer
from peft.tuners.lora import LoraLayer

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.reading import convert_lora
from lora.formats.shapes import linear_shapes
from tests.lora.formats.families import flux2_shapes, tiny_flux2
from tests.lora.formats.made import FLUX2_LAYOUTS, LAYOUTS
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
BUT_FINAL_MODULATION, BLOCKS = "^(?!final_layer.adaLN)", "_blocks"
# The same for FLUX.2: it does not swap the halves of the final modulation, knows few of kohya's layers outside the
# blocks, and those of diffusers only with its own prefix.
FLUX2_LOADED = {
    "diffusers": ALL,
    "diffusers by ComfyUI": BLOCKS,
    "BFL by ComfyUI": BUT_FINAL_MODULATION,
    "fal": BUT_FINAL_MODULATION,
    "kohya": BLOCKS,
    "kohya without alphas": r"_blocks|img_in|txt_in|time_in|final_layer\.linear",
    "LoKr by ai-toolkit": BUT_FINAL_MODULATION,
    "LoKr by LyCORIS": BLOCKS,
}
FUSED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
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
    ours = convert_lora(tensors, FLUX1).transformer
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
    ours = convert_lora(tensors, FLUX1).transformer
    assert layers.keys() == ours.keys()
    for layer, delta in ours.items():
        found = layers[layer].get_delta_weight("theirs")
        assert (found - delta.up @ delta.down).norm() < EXACT * found.norm(), layer


@pytest.mark.parametrize("name", FLUX2_LOADED)
def test_a_klein_pipeline_that_loads_the_file_itself_has_the_same_deltas(name):
    transformer = tiny_flux2()
    tensors = FLUX2_LAYOUTS[name].tensors(flux2_shapes(), only=FLUX2_LOADED[name])
    nothing = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer"))
    Flux2KleinPipeline(transformer=transformer, **nothing).load_lora_weights(dict(tensors), adapter_name="theirs")
    layers = {n: layer for n, layer in transformer.named_modules() if isinstance(layer, LoraLayer | LoKrLayer)}
    ours = convert_lora(tensors, FLUX2).transformer
    parts = {layer: parts_of(layer) for layer in layers}
    assert sorted(part for each in parts.values() for part in each) == sorted(ours)
    for layer, names in parts.items():
        found = layers[layer].get_delta_weight("theirs")
        expected = torch.cat([ours[part].matrix(torch.device("cpu")) for part in names])
        assert (found - expected).norm() < EXACT * found.norm(), layer


def parts_of(layer):
    """The layers that one which diffusers has fused consists of, top rows first."""
    block, _, part = layer.rpartition(".")
    return [f"{block}.{each}" for each in FUSED[part]] if part in FUSED else [layer]
