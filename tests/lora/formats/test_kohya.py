"""A LoRA in kohya's layout has the same weight deltas as in our own layout."""

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors.torch import load, save

from lora.formats.kohya import fused_layer, kohya_tensors
from tests.tiny import LAYERS, assert_one_sentence, random_lora, tiny_transformer

WIDTH = 32  # of the tiny transformer
# The layers of both layouts in order, written independently of the code, from networks/convert_flux_lora.py.
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


@pytest.fixture(scope="module")
def tensors():
    """A saved LoRA on every layer, in fp32."""
    return {name: tensor.float() for name, tensor in random_lora(tiny_transformer(), rank=3).items()}


def layers_of_both(blocks):
    """kohya's name of each layer, and our names of its parts."""
    for index in range(blocks):
        for layer, parts in DOUBLE.items():
            yield f"lora_unet_double_blocks_{index}_{layer}", [f"transformer_blocks.{index}.{part}" for part in parts]
        for layer, parts in SINGLE.items():
            names = [f"single_transformer_blocks.{index}.{part}" for part in parts]
            yield f"lora_unet_single_blocks_{index}_{layer}", names


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


def test_every_layer_has_the_same_delta_as_in_our_layout(tensors):
    """Traps 26, 27: including fused layers, whose alpha is the sum of the ranks."""
    converted = kohya_tensors(tensors)
    layers = dict(layers_of_both(2))
    assert sum(len(parts) for parts in layers.values()) == LAYERS
    assert len(converted) == 3 * len(layers)
    for name, parts in layers.items():
        expected = torch.cat([our_delta(tensors, part) for part in parts])
        assert expected.any()
        assert torch.allclose(kohya_delta(converted, name), expected, atol=1e-5), name


@pytest.mark.parametrize(
    "parts", [("to_q",), ("to_k", "to_v"), ("proj_mlp",), ("to_q", "proj_mlp"), ("add_k_proj",), ("proj_out",)]
)
def test_a_part_of_a_fused_layer_does_not_change_the_others(tensors, parts):
    """Missing parts are rows of zeros of the right height."""
    partial = only(tensors, *parts)
    converted = kohya_tensors(partial)
    for name, names in layers_of_both(2):
        deltas = [our_delta(partial, part) for part in names]
        if all(delta is None for delta in deltas):
            assert f"{name}.alpha" not in converted
            continue
        full = [our_delta(tensors, part) for part in names]
        missing = zip(deltas, full, strict=True)
        expected = torch.cat([torch.zeros_like(whole) if delta is None else delta for delta, whole in missing])
        assert torch.allclose(kohya_delta(converted, name), expected, atol=1e-5), name


@pytest.mark.parametrize("left_out", [(), ("attn.to_v",), ("attn.to_q", "attn.to_k", "attn.to_v"), ("proj_mlp",)])
def test_diffusers_reads_the_same_deltas_back(left_out):
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
    back = _convert_kohya_flux_lora_to_diffusers(kohya_tensors(tensors))
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
    converted = kohya_tensors(tensors)
    for name, tensor in converted.items():
        assert tensor.dtype == (torch.float32 if name.endswith(".alpha") else torch.bfloat16), name
    assert converted["lora_unet_double_blocks_0_img_attn_qkv.alpha"].item() == 381
    assert converted["lora_unet_single_blocks_1_linear1.alpha"].item() == 508
    assert converted["lora_unet_single_blocks_1_linear2.alpha"].item() == 127


def test_it_can_be_saved_together_with_the_original_tensors(tensors):
    """Trap 48: nothing is a view of another tensor."""
    converted = kohya_tensors(tensors)
    saved = load(save({**tensors, **converted}))
    assert all(torch.equal(saved[name], tensor) for name, tensor in converted.items())
    assert len({tensor.data_ptr() for tensor in converted.values()}) == len(converted)


@pytest.mark.parametrize("name", ["proj_out", "norm_out.linear", "x_embedder", "transformer_blocks.0.attn.norm_q"])
def test_a_layer_outside_the_blocks_is_refused(name):
    """Trap 28."""
    with pytest.raises(ValueError) as error:
        kohya_tensors({f"transformer.{name}.lora_A.weight": torch.ones(2, WIDTH)})
    assert_one_sentence(error.value, name, "expected a layer inside the blocks")


def test_all_parts_of_a_fused_layer_map_to_the_same_layer():
    fused = fused_layer("single_transformer_blocks.12.attn.to_v")
    assert fused.name == "single_blocks_12_linear1"
    assert {fused_layer(part) for part in fused.parts} == {fused}
