"""A LoRA in kohya's layout has the same weight deltas as in our own layout."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux2_lora_to_diffusers,
    _convert_kohya_flux_lora_to_diffusers,
)
from safetensors.torch import load, save

from lora.formats.kohya import fused_layer, kohya_tensors
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.layer_names.record import LayerNames
from lora.formats.reading import convert_lora
from tests.lora.formats.families import flux1_shapes, flux2_shapes
from tests.lora.formats.made import Shapes, randn
from tests.tiny import assert_one_sentence, random_lora, tiny_transformer

WIDTH = 32  # of the tiny transformer
# The layers of both layouts in order, written independently of the code, from networks/convert_flux_lora.py
# of sd-scripts and flux_2/flux2_models.py of musubi-tuner.
DOUBLE = {
    "img_attn_qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn_qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn_proj": ["attn.to_out.0"],
    "txt_attn_proj": ["attn.to_add_out"],
    "img_mlp_0": ["ff.net.0.proj"],
    "img_mlp_2": ["ff.net.2"],
    "txt_mlp_0": ["ff_context.net.0.proj"],
    "txt_mlp_2": ["ff_context.net.2"],
    "img_mod_lin": ["norm1.linear"],
    "txt_mod_lin": ["norm1_context.linear"],
}
SINGLE = {
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "linear2": ["proj_out"],
    "modulation_lin": ["norm.linear"],
}


FLUX2_DOUBLE = {
    **{layer: DOUBLE[layer] for layer in ("img_attn_qkv", "txt_attn_qkv", "img_attn_proj", "txt_attn_proj")},
    "img_mlp_0": ["ff.linear_in"],
    "img_mlp_2": ["ff.linear_out"],
    "txt_mlp_0": ["ff_context.linear_in"],
    "txt_mlp_2": ["ff_context.linear_out"],
}
FLUX2_SINGLE = {"linear1": ["attn.to_qkv_mlp_proj"], "linear2": ["attn.to_out"]}


@dataclass(frozen=True)
class Family:
    """A family, with the tables of its layers and the shapes of a tiny model of two blocks of each kind."""

    names: LayerNames
    double: dict[str, list[str]]
    single: dict[str, list[str]]
    shapes: Callable[[], Shapes]

    @property
    def layers(self):
        """kohya's name of each layer, and our names of its parts."""
        for index in range(2):
            for layer, parts in self.double.items():
                yield f"lora_unet_double_blocks_{index}_{layer}", [f"transformer_blocks.{index}.{p}" for p in parts]
            for layer, parts in self.single.items():
                names = [f"single_transformer_blocks.{index}.{part}" for part in parts]
                yield f"lora_unet_single_blocks_{index}_{layer}", names


FAMILIES = {
    "FLUX.1": Family(FLUX1, DOUBLE, SINGLE, flux1_shapes),
    "FLUX.2": Family(FLUX2, FLUX2_DOUBLE, FLUX2_SINGLE, flux2_shapes),
}


@pytest.fixture(params=[*FAMILIES])
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def tensors(family):
    """A saved LoRA of rank 3 on every layer in blocks, in fp32."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in family.shapes().items():
        if "transformer_blocks." in name:
            made[f"transformer.{name}.lora_A.weight"] = randn(generator, 3, shape.inputs)
            made[f"transformer.{name}.lora_B.weight"] = randn(generator, shape.outputs, 3)
    return made


def our_delta(tensors, name):
    """The delta of a layer in our layout; None if it has none."""
    a, b = (tensors.get(f"transformer.{name}.lora_{half}.weight") for half in "AB")
    return None if a is None else b.float() @ a.float()


def kohya_delta(tensors, name):
    """The delta of a layer as sd-scripts computes it."""
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    return tensors[f"{name}.alpha"].item() / down.shape[0] * (up.float() @ down.float())


def only(tensors, *parts):
    return {name: tensor for name, tensor in tensors.items() if any(f".{part}.lora_" in name for part in parts)}


def test_every_layer_has_the_same_delta_as_in_our_layout(family, tensors):
    """Traps 26, 27: including fused layers, whose alpha is the sum of the ranks."""
    converted = kohya_tensors(tensors, family.names)
    layers = dict(family.layers)
    assert 2 * sum(len(parts) for parts in layers.values()) == len(tensors)
    assert len(converted) == 3 * len(layers)
    for name, parts in layers.items():
        expected = torch.cat([our_delta(tensors, part) for part in parts])
        assert expected.any()
        assert torch.allclose(kohya_delta(converted, name), expected, atol=1e-5), name


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        *(("FLUX.1", parts) for parts in (("to_q",), ("to_k", "to_v"), ("proj_mlp",), ("to_q", "proj_mlp"))),
        *(("FLUX.1", parts) for parts in (("add_k_proj",), ("proj_out",))),
        *(("FLUX.2", parts) for parts in (("to_q",), ("to_k", "to_v"), ("add_k_proj",), ("to_qkv_mlp_proj",))),
    ],
    indirect=["family"],
)
def test_a_part_of_a_fused_layer_does_not_change_the_others(family, tensors, parts):
    """Missing parts are rows of zeros of the right height."""
    partial = only(tensors, *parts)
    converted = kohya_tensors(partial, family.names)
    assert converted
    for name, names in family.layers:
        deltas = [our_delta(partial, part) for part in names]
        if all(delta is None for delta in deltas):
            assert f"{name}.alpha" not in converted
            continue
        full = [our_delta(tensors, part) for part in names]
        missing = zip(deltas, full, strict=True)
        expected = torch.cat([torch.zeros_like(whole) if delta is None else delta for delta, whole in missing])
        assert torch.allclose(kohya_delta(converted, name), expected, atol=1e-5), name


@pytest.mark.parametrize("left_out", [(), ("to_v",), ("to_q", "to_k", "to_v"), ("linear_in",)])
def test_it_is_read_back_bit_for_bit(family, tensors, left_out):
    """Each layer of a fused one gets its own two matrices back."""
    left = {name: tensor for name, tensor in tensors.items() if name.split(".lora_")[0].split(".")[-1] not in left_out}
    first, back = (convert_lora(each, family.names).transformer for each in (left, kohya_tensors(left, family.names)))
    assert first.keys() == back.keys()
    for name, delta in first.items():
        assert torch.equal(back[name].down, delta.down), name
        assert torch.equal(back[name].up, delta.up), name


@pytest.mark.parametrize("family", ["FLUX.2"], indirect=True)
@pytest.mark.parametrize("left_out", [(), ("to_v",), ("to_q", "to_k", "to_v"), ("linear_in",)])
def test_diffusers_reads_the_same_deltas_of_flux_2_back(tensors, left_out):
    left = {name: tensor for name, tensor in tensors.items() if name.split(".lora_")[0].split(".")[-1] not in left_out}
    back = _convert_kohya_flux2_lora_to_diffusers(kohya_tensors(left, FLUX2))
    assert left.keys() <= back.keys()
    for name in {key.removeprefix("transformer.").rsplit(".lora_", 1)[0] for key in back}:
        found, expected = our_delta(back, name), our_delta(left, name)
        assert torch.allclose(found, torch.zeros_like(found) if expected is None else expected, atol=1e-5), name


@pytest.mark.parametrize("left_out", [(), ("attn.to_v",), ("attn.to_q", "attn.to_k", "attn.to_v"), ("proj_mlp",)])
def test_diffusers_reads_the_same_deltas_of_flux_1_back(left_out):
    """At the width of FLUX.1, which the converter of diffusers assumes."""
    generator = torch.Generator().manual_seed(0)
    shapes = dict.fromkeys(["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_add_out"], (3072, 3072))
    shapes |= dict.fromkeys(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], (3072, 3072))
    shapes |= {"ff.net.0.proj": (3072, 12288), "ff.net.2": (12288, 3072), "norm1.linear": (3072, 18432)}
    single = dict.fromkeys(["attn.to_q", "attn.to_k", "attn.to_v"], (3072, 3072))
    single |= {"proj_mlp": (3072, 12288), "proj_out": (15360, 3072), "norm.linear": (3072, 9216)}
    layers = {f"transformer_blocks.0.{name}": shape for name, shape in shapes.items() if name not in left_out}
    layers |= {f"single_transformer_blocks.0.{name}": shape for name, shape in single.items() if name not in left_out}
    tensors = {}
    for name, (inputs, outputs) in layers.items():
        tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(2, inputs, generator=generator)
        tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(outputs, 2, generator=generator)
    back = _convert_kohya_flux_lora_to_diffusers(kohya_tensors(tensors, FLUX1))
    probe = {inputs: torch.randn(inputs, 4, generator=generator) for inputs, _ in layers.values()}
    for name in {key.removeprefix("transformer.").rsplit(".lora_", 1)[0] for key in back}:
        a, b = (back[f"transformer.{name}.lora_{half}.weight"] for half in "AB")
        output = b @ (a @ probe[a.shape[1]])
        if name not in layers:
            assert not output.any(), name
            continue
        ours_a, ours_b = (tensors[f"transformer.{name}.lora_{half}.weight"] for half in "AB")
        expected = ours_b @ (ours_a @ probe[a.shape[1]])
        assert (output - expected).norm() / expected.norm() < 1e-5, name
    assert layers.keys() <= {key.removeprefix("transformer.").rsplit(".lora_", 1)[0] for key in back}


def test_the_precision_is_kept_and_every_alpha_is_exact():
    """bf16 cannot represent 381, the alpha of a fused layer at rank 127."""
    tensors = random_lora(tiny_transformer(), rank=127)
    converted = kohya_tensors(tensors, FLUX1)
    for name, tensor in converted.items():
        assert tensor.dtype == (torch.float32 if name.endswith(".alpha") else torch.bfloat16), name
    assert converted["lora_unet_double_blocks_0_img_attn_qkv.alpha"].item() == 381
    assert converted["lora_unet_single_blocks_1_linear1.alpha"].item() == 508
    assert converted["lora_unet_single_blocks_1_linear2.alpha"].item() == 127


def test_it_can_be_saved_together_with_the_original_tensors(family, tensors):
    """Trap 48: nothing is a view of another tensor."""
    converted = kohya_tensors(tensors, family.names)
    saved = load(save({**tensors, **converted}))
    assert all(torch.equal(saved[name], tensor) for name, tensor in converted.items())
    assert len({tensor.data_ptr() for tensor in converted.values()}) == len(converted)


@pytest.mark.parametrize("name", ["proj_out", "norm_out.linear", "x_embedder", "transformer_blocks.0.attn.norm_q"])
def test_a_layer_outside_the_blocks_is_refused(family, name):
    """Trap 28."""
    with pytest.raises(ValueError) as error:
        kohya_tensors({f"transformer.{name}.lora_A.weight": torch.ones(2, WIDTH)}, family.names)
    assert_one_sentence(error.value, name, f"expected a layer inside the blocks of {family.names.name}")


def test_all_parts_of_a_fused_layer_map_to_the_same_layer():
    fused = fused_layer("single_transformer_blocks.12.attn.to_v", FLUX1)
    assert fused.name == "single_blocks_12_linear1"
    assert {fused_layer(part, FLUX1) for part in fused.parts} == {fused}
