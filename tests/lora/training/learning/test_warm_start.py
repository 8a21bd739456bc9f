"""A training can start from a LoRA of any rank and layout, with the same weight deltas."""

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer

from lora.formats.kohya import kohya_tensors
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.shapes import Shape
from lora.training.learning.adapter import add_lora, lora_tensors
from lora.training.learning.warm_start import load_initial_lora, match_layers
from lora.training.recipe.layers import block_layers
from tests.lora.formats.made import loha, lokr
from tests.tiny import (
    LAYERS,
    assert_one_sentence,
    lora_parameters,
    random_lora,
    tiny_lora_transformer,
    tiny_transformer,
)


@pytest.fixture(scope="module")
def lora():
    """A LoRA of rank 4 on all layers, in fp32, so that nothing is rounded."""
    return {name: tensor.float() for name, tensor in random_lora(tiny_transformer(), rank=4).items()}


def delta_of(tensors, layer):
    return tensors[f"transformer.{layer}.lora_B.weight"] @ tensors[f"transformer.{layer}.lora_A.weight"]


def deltas_of(transformer):
    """The weight delta of each layer of a transformer."""
    factors = {name: each.detach() for name, each in lora_parameters(transformer).items()}
    layers = sorted({name.split(".lora_")[0] for name in factors})
    return {
        layer: factors[f"{layer}.lora_B.default.weight"] @ factors[f"{layer}.lora_A.default.weight"] for layer in layers
    }


def with_initial_lora(tensors, *, rank):
    transformer = tiny_lora_transformer(rank=rank)
    load_initial_lora(transformer, tensors)
    return transformer


def shapes_of(transformer):
    return block_layers(transformer.config, type(transformer))


def test_at_the_same_rank_it_is_the_same_lora(lora):
    transformer = with_initial_lora(lora, rank=4)
    for name, parameter in lora_parameters(transformer).items():
        assert torch.equal(parameter, lora[f"transformer.{name.replace('.default', '')}"])


def test_the_number_of_matched_layers_is_reported(lora):
    line = match_layers(lora, shapes_of(tiny_transformer()), FLUX1).line()
    assert line == f"starting from the LoRA in resume_from: {LAYERS} layers used, 0 ignored"


def test_biases_are_ignored_and_reported(lora):
    bias = {"transformer.transformer_blocks.0.attn.to_q.diff_b": torch.ones(32)}
    line = match_layers(lora | bias, shapes_of(tiny_transformer()), FLUX1).line()
    assert line == f"starting from the LoRA in resume_from: {LAYERS} layers used, 1 ignored"


def test_at_a_higher_rank_the_deltas_are_equal_and_the_rest_can_be_trained(lora):
    transformer = with_initial_lora(lora, rank=16)
    for name, parameter in lora_parameters(transformer).items():
        given = lora[f"transformer.{name.replace('.default', '')}"]
        if ".lora_A." in name:
            assert torch.equal(parameter[:4], given)
            assert (parameter[4:] != 0).all(), "with a B of 0 it must not be 0 too"
        else:
            assert torch.equal(parameter[:, :4], given)
            assert not parameter[:, 4:].any()
    for layer, delta in deltas_of(transformer).items():
        assert torch.allclose(delta, delta_of(lora, layer), rtol=0, atol=1e-7)


def test_at_a_lower_rank_the_deltas_are_the_nearest_of_that_rank(lora):
    """By the singular values of the delta (Eckart and Young)."""
    transformer = with_initial_lora(lora, rank=2)
    for layer, found in deltas_of(transformer).items():
        u, values, v = torch.linalg.svd(delta_of(lora, layer).double(), full_matrices=False)
        nearest = (u[:, :2] * values[:2]) @ v[:2]
        assert torch.allclose(found.double(), nearest, atol=1e-5 * values[0].item()), layer


def test_at_a_lower_rank_both_factors_can_be_trained(lora):
    transformer = with_initial_lora(lora, rank=2)
    for parameter in lora_parameters(transformer).values():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
        assert parameter.any(dim=0 if parameter.shape[0] != 2 else 1).all()


def test_a_bf16_lora_is_accepted(lora):
    """As our own files are."""
    rounded = {name: tensor.bfloat16() for name, tensor in lora.items()}
    transformer = with_initial_lora(rounded, rank=4)
    for name, parameter in lora_parameters(transformer).items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, rounded[f"transformer.{name.replace('.default', '')}"].float())


def test_a_lora_that_we_saved_is_loaded_unchanged():
    first = tiny_lora_transformer(rank=4, seed=1)
    second = with_initial_lora(lora_tensors(first), rank=4)
    tensors = lora_tensors(second)
    assert all(torch.equal(tensors[name], each) for name, each in lora_tensors(first).items())


def test_an_alpha_in_the_file_is_applied(lora):
    """Trap 24: otherwise training would start from another LoRA than the one used in inference."""
    alphas = {name.replace(".lora_A.weight", ".alpha"): torch.tensor(2.0) for name in lora if ".lora_A." in name}
    transformer = with_initial_lora(lora | alphas, rank=4)
    for layer, delta in deltas_of(transformer).items():
        assert torch.allclose(delta, 0.5 * delta_of(lora, layer), rtol=0, atol=1e-7)


def test_layers_that_are_not_trained_are_left_out_and_counted(lora):
    shapes = shapes_of(tiny_transformer())
    queries = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_q")
    line = match_layers(lora, {name: shapes[name] for name in queries}, FLUX1).line()
    assert line == f"starting from the LoRA in resume_from: 2 layers used, {LAYERS - 2} ignored"


def test_layers_that_the_lora_does_not_have_start_without_a_delta(lora):
    part = {name: tensor for name, tensor in lora.items() if ".attn.to_q." in name}
    transformer = with_initial_lora(part, rank=4)
    deltas = deltas_of(transformer)
    assert {layer for layer, delta in deltas.items() if delta.any()} == {n for n in deltas if "attn.to_q" in n}


def test_a_lora_with_no_layer_in_common_is_refused(lora):
    other = {name.replace("_blocks.0", "_blocks.9"): tensor for name, tensor in lora.items() if "0.attn.to_q" in name}
    with pytest.raises(ValueError, match="none of which is trained") as error:
        with_initial_lora(other, rank=4)
    assert_one_sentence(error.value, "resume_from is a LoRA on 2 layers")


def test_a_lora_of_another_kind_of_model_is_refused():
    name = "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight"
    with pytest.raises(ValueError, match=r"^resume_from cannot be used: the LoRA has") as error:
        with_initial_lora({name: torch.ones(4, 8)}, rank=4)
    assert_one_sentence(error.value, name, "Stable Diffusion")


def test_a_lora_of_another_base_is_refused_with_the_layer_that_differs(lora):
    name = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
    with pytest.raises(ValueError, match=r"^resume_from has transformer_blocks.0.attn.to_q of shape 32 x 48") as error:
        with_initial_lora(lora | {name: torch.zeros(4, 48)}, rank=4)
    assert_one_sentence(error.value, "expected 32 x 32")


def test_a_lora_of_a_model_of_another_size_is_refused_with_its_name():
    name = "transformer_blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 4096), f"{name}.lora_B.weight": torch.ones(4096, 2)}
    with pytest.raises(ValueError, match="resume_from has") as error:
        match_layers(tensors, {name: Shape(32, 32)}, FLUX1)
    assert_one_sentence(error.value, "4096 x 4096 (it was made for FLUX.2 [klein] 9B): expected 32 x 32")


def test_the_layout_of_kohya_is_accepted():
    """At the width of FLUX.1, which the converter of diffusers assumes; the base is on the meta device."""
    layers = [f"transformer_blocks.0.attn.{part}" for part in ("to_q", "to_k", "to_v")]
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=0)
    add_lora(transformer, layers=layers, rank=2, seed=0)
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            module.lora_A.to_empty(device="cpu")
            module.lora_B.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.{layer}.lora_{half}.weight": torch.randn(shape, generator=generator)
        for layer in layers
        for half, shape in (("A", (2, 3072)), ("B", (3072, 2)))
    }
    load_initial_lora(transformer, kohya_tensors(tensors, FLUX1))
    for layer, delta in deltas_of(transformer).items():
        expected = delta_of(tensors, layer)
        assert (delta - expected).norm() / expected.norm() < 1e-5


def test_a_dora_is_refused(lora):
    """C88: without its magnitudes, the deltas would be others."""
    magnitude = {"transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector": torch.ones(32)}
    with pytest.raises(ValueError, match="resume_from cannot be used") as error:
        with_initial_lora(lora | magnitude, rank=4)
    assert_one_sentence(error.value, "lora_magnitude_vector", "is a DoRA", "expected a plain LoRA")


@pytest.mark.parametrize("decomposition", [loha, lokr])
def test_a_loha_or_lokr_is_converted_to_low_rank_factors(decomposition):
    name = "transformer_blocks.0.attn.to_q"
    tensors, delta = decomposition(f"transformer.{name}", 32, 32, torch.Generator().manual_seed(0))
    deltas = deltas_of(with_initial_lora(tensors, rank=16))
    assert torch.allclose(deltas[name].double(), delta(), atol=1e-5)


def test_a_lokr_of_too_high_a_rank_is_refused_with_its_layer():
    name = "transformer_blocks.0.attn.to_q"
    tensors = {f"transformer.{name}.lokr_w1": torch.ones(8, 8), f"transformer.{name}.lokr_w2_a": torch.ones(4, 9)}
    with pytest.raises(ValueError) as error:
        with_initial_lora(tensors | {f"transformer.{name}.lokr_w2_b": torch.ones(9, 4)}, rank=4)
    assert_one_sentence(error.value, f"resume_from has {name}, which has rank 72: expected at most 32")


def test_an_alpha_that_makes_the_lora_infinite_is_refused(lora):
    alphas = {name.replace(".lora_A.weight", ".alpha"): torch.tensor(3e38) for name in lora if ".lora_A." in name}
    large = {name: tensor * 1e3 for name, tensor in lora.items()}
    with pytest.raises(ValueError, match=r"an alpha that makes .* infinite") as error:
        with_initial_lora(large | alphas, rank=4)
    assert_one_sentence(error.value, "resume_from cannot be used: the LoRA has", "transformer_blocks.0")
