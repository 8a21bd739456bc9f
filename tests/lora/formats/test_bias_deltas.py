"""Differences of biases, norms and whole weights are what ComfyUI, LyCORIS and PEFT add."""

import pytest
import torch

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.reading import convert_lora
from lora.formats.weight_deltas import VectorName
from tests.lora.formats.made import ALPHA, KOHYA, PEFT, RANK, randn
from tests.tiny import assert_one_sentence

CPU = torch.device("cpu")
NAME, LAYER = "transformer.transformer_blocks.0.ff.net.0.proj", "transformer_blocks.0.ff.net.0.proj"
KOHYA_NAME = "lora_unet_double_blocks_0_img_mlp_0"


def made(decomposition, name, rows=16, columns=8):
    return decomposition(name, rows, columns, torch.Generator().manual_seed(0))


def of(layer, parameter="bias", model="transformer"):
    return VectorName(model, layer, parameter)


def refusal(tensors):
    with pytest.raises(ValueError) as error:
        convert_lora(tensors, FLUX1)
    assert_one_sentence(error.value)
    return str(error.value)


@pytest.mark.parametrize("key", ["diff_b", "b_norm"])
def test_a_difference_of_a_bias_is_added_as_it_is(key):
    """ComfyUI multiplies no `diff_b` by alpha / rank."""
    lora = convert_lora(made(KOHYA, KOHYA_NAME)[0] | {f"{KOHYA_NAME}.{key}": torch.arange(16.0)}, FLUX1)
    assert torch.equal(lora.vectors[of(LAYER)], torch.arange(16.0))
    assert torch.allclose(lora.transformer[LAYER].matrix(CPU).double(), made(KOHYA, KOHYA_NAME)[1](), atol=1e-5)


@pytest.mark.parametrize("adapter", ["", ".person"])
def test_the_biases_of_both_matrices_are_multiplied_like_them(adapter):
    """up (down x + a) + b is up down x and up a + b, times alpha / rank."""
    generator = torch.Generator().manual_seed(3)
    a, b = randn(generator, RANK), randn(generator, 16)
    tensors, _ = made(PEFT, NAME)
    up = tensors[f"{NAME}.lora_B.weight"].double()
    tensors |= {f"{NAME}.lora_A{adapter}.bias": a, f"{NAME}.lora_B{adapter}.bias": b}
    found = convert_lora(tensors | {f"{NAME}.alpha": torch.tensor(ALPHA)}, FLUX1).vectors[of(LAYER)]
    assert torch.allclose(found.double(), ALPHA / RANK * (up @ a.double() + b.double()), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("double_blocks.0.img_attn.qkv", {f"transformer_blocks.0.attn.to_{part}": 1 for part in "qkv"}),
        (
            "single_blocks.1.linear1",
            {
                **{f"single_transformer_blocks.1.attn.to_{part}": 1 for part in "qkv"},
                "single_transformer_blocks.1.proj_mlp": 4,
            },
        ),
    ],
)
def test_the_bias_of_a_fused_layer_is_split_like_its_rows(name, parts):
    whole = torch.arange(2.0 * sum(parts.values())) + 1
    vectors = convert_lora({f"diffusion_model.{name}.diff_b": whole}, FLUX1).vectors
    assert list(vectors) == [of(layer) for layer in parts]
    assert [len(vector) for vector in vectors.values()] == [2 * height for height in parts.values()]
    assert torch.equal(torch.cat([*vectors.values()]), whole)


def test_flux_2_has_no_fused_layer_in_single_blocks():
    """Diffusers keeps it whole. A bias of it is refused later, as klein has none."""
    vectors = convert_lora({"diffusion_model.single_blocks.1.linear1.diff_b": torch.ones(9)}, FLUX2).vectors
    assert vectors.keys() == {of("single_transformer_blocks.1.attn.to_qkv_mlp_proj")}


def test_the_bias_of_the_final_modulation_of_the_original_flux_is_swapped():
    (found,) = convert_lora({"final_layer.adaLN_modulation.1.diff_b": torch.tensor([1.0, 2.0])}, FLUX1).vectors.values()
    assert found.tolist() == [2, 1]


def test_a_bias_that_cannot_be_split_is_refused():
    message = refusal({"double_blocks.0.img_attn.qkv.diff_b": torch.ones(4)})
    assert message.startswith("has a bias of 4 numbers for transformer_blocks.0.attn.to_q and")


@pytest.mark.parametrize("key", ["diff_b", "lora_B.bias"])
def test_a_bias_that_is_a_matrix_is_refused(key):
    assert "expected a vector" in refusal(made(PEFT, NAME)[0] | {f"{NAME}.{key}": torch.ones(4, 4)})


def test_biases_of_different_lengths_are_refused():
    tensors = made(PEFT, NAME)[0] | {f"{NAME}.diff_b": torch.ones(16), f"{NAME}.lora_B.bias": torch.ones(15)}
    assert "have different lengths" in refusal(tensors)


def test_a_bias_of_the_ranks_of_another_length_is_refused():
    assert "rank 3 and a bias of 5" in refusal(made(PEFT, NAME)[0] | {f"{NAME}.lora_A.bias": torch.ones(5)})


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff", "transformer_blocks.0.attn.norm_q"),
        ("diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale.diff", "transformer_blocks.0.attn.norm_k"),
        ("double_blocks.3.txt_attn.norm.query_norm.diff", "transformer_blocks.3.attn.norm_added_q"),
        ("lora_unet_double_blocks_0_txt_attn_norm_key_norm.w_norm", "transformer_blocks.0.attn.norm_added_k"),
        ("diffusion_model.single_blocks.7.norm.key_norm.diff", "single_transformer_blocks.7.attn.norm_k"),
        ("transformer.single_transformer_blocks.7.attn.norm_q.diff", "single_transformer_blocks.7.attn.norm_q"),
        ("lycoris_transformer_blocks_0_attn_norm_q.w_norm", "transformer_blocks.0.attn.norm_q"),
    ],
)
@pytest.mark.parametrize("names", [FLUX1, FLUX2], ids=lambda names: names.name)
def test_the_scale_of_a_norm_is_found_in_every_layout(names, name, norm):
    assert convert_lora({name: torch.ones(16)}, names).vectors.keys() == {of(norm, "weight")}


def test_the_norms_of_a_control_model_are_not_differences():
    assert "Control model" in refusal({"double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(16)})


def test_a_lora_of_a_norm_is_refused_by_its_name():
    name = "transformer.transformer_blocks.0.attn.norm_q"
    assert name in refusal(made(PEFT, name)[0])


def test_a_full_difference_is_the_delta():
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    whole = randn(torch.Generator().manual_seed(0), 24, 8)
    lora = convert_lora({f"{name}.diff": whole.half(), f"{name}.diff_b": torch.ones(24)}, FLUX1)
    assert torch.equal(torch.cat([each.matrix(CPU) for each in lora.transformer.values()]), whole.half().float())
    assert len(lora.vectors) == 3


def test_a_full_difference_becomes_a_low_rank_one_for_a_training():
    (delta,) = convert_lora({f"{NAME}.diff": torch.arange(12.0).reshape(4, 3)}, FLUX1).transformer.values()
    factors = delta.low_rank()
    assert torch.equal(factors.up @ factors.down, torch.arange(12.0).reshape(4, 3))


@pytest.mark.parametrize("key", ["diff", "diff_b"])
def test_a_difference_that_is_infinite_in_fp32_is_refused(key):
    size = (4, 3) if key == "diff" else (4,)
    message = refusal({f"{NAME}.{key}": torch.full(size, 1e300, dtype=torch.float64)})
    assert message == f"has numbers that make {NAME} infinite: expected finite weights"
