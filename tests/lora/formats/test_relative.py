"""DoRA and GLoRA have the deltas that their trainers compute, from the weights of the base; each formula in fp64."""

import pytest
import torch

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from tests.lora.formats.made import KOHYA, PEFT, loha, lokr, randn
from tests.tiny import assert_one_sentence

CPU = torch.device("cpu")
WIDTH = 8
QKV = tuple(f"transformer_blocks.0.attn.to_{part}" for part in "qkv")
LINEAR1 = (*(f"single_transformer_blocks.0.attn.to_{part}" for part in "qkv"), "single_transformer_blocks.0.proj_mlp")
# A layer of a file, the layers of diffusers that it is, and their heights by the width
LAYERS = [
    ("lora_unet_double_blocks_0_img_mlp_0", ("transformer_blocks.0.ff.net.0.proj",), (4,)),
    ("lora_unet_double_blocks_0_img_attn_qkv", QKV, (1, 1, 1)),
    ("lora_unet_single_blocks_0_linear1", LINEAR1, (1, 1, 1, 4)),
    ("lora_unet_final_layer_adaLN_modulation_1", ("norm_out.linear",), (2,)),
]
SWAPPED = "lora_unet_final_layer_adaLN_modulation_1"


def made_base(name, layers, heights):
    """The base's weights by layer, and as one matrix in the order of the file."""
    generator = torch.Generator().manual_seed(1)
    base = {layer: randn(generator, height * WIDTH, WIDTH) for layer, height in zip(layers, heights, strict=True)}
    whole = torch.cat([*base.values()]).double()
    return base, whole.roll(len(whole) // 2, 0) if name == SWAPPED else whole


def assert_delta(tensors, expected, name, base):
    """The deltas of the layers together are `expected`, in the order of the file."""
    deltas = convert_lora(tensors, FLUX1).transformer
    assert deltas.keys() == base.keys()
    found = torch.cat([deltas[layer].resolved(base.__getitem__).matrix(CPU) for layer in base])
    found = found.roll(len(found) // 2, 0) if name == SWAPPED else found
    assert (found - expected).norm() < 1e-5 * expected.norm()


def dora(whole, delta, magnitude):
    merged = whole + delta
    lengths = torch.linalg.vector_norm(merged, dim=1 if magnitude.shape[1] == 1 else 0, keepdim=True)
    return merged * magnitude.double() / lengths - whole


@pytest.mark.parametrize(("name", "layers", "heights"), LAYERS, ids=[name for name, *_ in LAYERS])
@pytest.mark.parametrize("decomposition", [KOHYA, loha, lokr], ids=["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("of", ["rows", "columns"])
def test_a_dora_gives_the_merged_rows_or_columns_their_lengths(name, layers, heights, decomposition, of):
    """Both axes of LyCORIS and OneTrainer. The columns of a fused layer have the lengths of all its parts together."""
    base, whole = made_base(name, layers, heights)
    generator = torch.Generator().manual_seed(2)
    tensors, delta = decomposition(name, len(whole), WIDTH, generator)
    size = (len(whole), 1) if of == "rows" else (1, WIDTH)
    magnitude = randn(generator, *size).abs() + 1
    assert_delta(tensors | {f"{name}.dora_scale": magnitude}, dora(whole, delta(), magnitude), name, base)


@pytest.mark.parametrize("key", ["lora_magnitude_vector", "lora_magnitude_vector.default.weight", "magnitude"])
def test_the_magnitudes_of_peft_and_of_ai_toolkit_are_of_rows(key):
    name, (layer, *_) = "transformer.transformer_blocks.0.attn.to_q", QKV
    base, whole = made_base(name, (layer,), (1,))
    tensors, delta = PEFT(name, WIDTH, WIDTH, torch.Generator().manual_seed(2))
    magnitude = torch.linspace(1, 2, WIDTH)
    assert_delta(tensors | {f"{name}.{key}": magnitude}, dora(whole, delta(), magnitude[:, None]), name, base)


@pytest.mark.parametrize("size", [(), (3,), (WIDTH, 2), (1, 3)])
def test_magnitudes_that_do_not_match_the_layer_are_refused(size):
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors, _ = PEFT(name, WIDTH, WIDTH, torch.Generator().manual_seed(2))
    with pytest.raises(ValueError) as error:
        convert_lora(tensors | {f"{name}.magnitude": torch.ones(size)}, FLUX1)
    assert_one_sentence(error.value, f"has {name}.magnitude of shape", "expected 8x1 or 1x8")


def made_glora(name, rows, columns, generator, *, is_old):
    a1, a2 = randn(generator, columns, 2), randn(generator, 2, columns)
    b1, b2 = randn(generator, rows, 2), randn(generator, 2, columns)
    names = ("a2", "a1", "b2", "b1") if is_old else ("a1", "a2", "b1", "b2")
    tensors = {f"{name}.{part}.weight": each for part, each in zip(names, (a1, a2, b1, b2), strict=True)}
    tensors[f"{name}.alpha"] = torch.tensor(3.0)
    a1, a2, b1, b2 = (each.double() for each in (a1, a2, b1, b2))
    return tensors, lambda whole: 1.5 * (whole @ a1 @ a2 + b1 @ b2)


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(("name", "layers", "heights"), LAYERS, ids=[name for name, *_ in LAYERS])
def test_a_glora_adds_a_lora_of_the_input_and_one_of_the_output(name, layers, heights, is_old):
    base, whole = made_base(name, layers, heights)
    tensors, delta = made_glora(name, len(whole), WIDTH, torch.Generator().manual_seed(2), is_old=is_old)
    assert_delta(tensors, delta(whole), name, base)


def test_both_orders_of_a_glora_are_told_apart_on_a_square_layer():
    name, (layer, *_) = "transformer.transformer_blocks.0.attn.to_q", QKV
    base, whole = made_base(name, (layer,), (1,))
    for is_old in (False, True):
        tensors, delta = made_glora(name, WIDTH, WIDTH, torch.Generator().manual_seed(2), is_old=is_old)
        assert_delta(tensors, delta(whole), name, base)


def test_matrices_of_a_glora_that_do_not_match_are_refused():
    name = "transformer.transformer_blocks.0.attn.to_q"
    tensors, _ = made_glora(name, WIDTH, WIDTH, torch.Generator().manual_seed(2), is_old=False)
    with pytest.raises(ValueError) as error:
        convert_lora(tensors | {f"{name}.b1.weight": torch.ones(WIDTH, 5)}, FLUX1)
    assert_one_sentence(error.value, f"the matrices of the GLoRA {name}", "do not match")


@pytest.mark.parametrize("kind", ["GLoRA", "DoRA"])
def test_it_has_no_matrices_without_the_base(kind):
    name = "transformer.transformer_blocks.0.attn.to_q"
    generator = torch.Generator().manual_seed(2)
    tensors = made_glora(name, WIDTH, WIDTH, generator, is_old=False)[0]
    if kind == "DoRA":
        tensors = PEFT(name, WIDTH, WIDTH, generator)[0] | {f"{name}.magnitude": torch.ones(WIDTH)}
    (delta,) = convert_lora(tensors, FLUX1).transformer.values()
    with pytest.raises(ValueError) as error:
        delta.low_rank()
    assert_one_sentence(error.value, f"is a {kind}, whose", "depends on the base's weights: expected a plain LoRA")
