"""LoHa has the weight delta that LyCORIS computes, whole or as one LoRA with the product of the ranks."""

import pytest
import torch

from lora.formats.decompositions.loha import loha_delta
from lora.formats.tensor_keys import group_by_layer
from tests.lora.formats.made import ALPHA, loha, randn
from tests.tiny import assert_one_sentence

CPU = torch.device("cpu")
NAME = "lora_unet_double_blocks_0_img_attn_proj"


def layer_of(tensors):
    (layer,) = group_by_layer(tensors).layers
    return layer


def make_loha(rows=24, columns=16):
    tensors, delta = loha(NAME, rows, columns, torch.Generator().manual_seed(0))
    return tensors, delta()


def test_the_delta_is_the_elementwise_product_of_both():
    tensors, delta = make_loha()
    assert torch.allclose(loha_delta(layer_of(tensors)).matrix(CPU).double(), delta, atol=1e-5)


def test_as_one_lora_the_delta_is_the_same():
    tensors, delta = make_loha()
    factors = loha_delta(layer_of(tensors)).low_rank()
    assert factors.down.shape == (9, 16)
    assert factors.up.shape == (24, 9)
    assert torch.allclose(factors.up.double() @ factors.down.double(), delta, atol=1e-5)


def test_it_is_exact_at_the_width_of_flux():
    tensors, delta = make_loha(rows=3072, columns=3072)
    found = loha_delta(layer_of(tensors))
    assert (found.matrix(CPU) - delta).norm() < 1e-5 * delta.norm()
    factors = found.low_rank()
    assert (factors.up.double() @ factors.down.double() - delta).norm() < 1e-5 * delta.norm()


def test_without_an_alpha_the_scaling_is_1():
    tensors, delta = make_loha()
    found = loha_delta(layer_of({name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}))
    assert torch.allclose(found.matrix(CPU).double(), delta * 3 / ALPHA, atol=1e-4)


def test_the_two_products_may_have_different_ranks():
    """alpha is divided by the rank of the first."""
    tensors, _ = make_loha()
    generator = torch.Generator().manual_seed(1)
    w2_a, w2_b = randn(generator, 24, 1), randn(generator, 1, 16)
    found = loha_delta(layer_of(tensors | {f"{NAME}.hada_w2_a": w2_a, f"{NAME}.hada_w2_b": w2_b}))
    first = tensors[f"{NAME}.hada_w1_a"] @ tensors[f"{NAME}.hada_w1_b"]
    assert torch.allclose(found.matrix(CPU), first * (w2_a @ w2_b) * ALPHA / 3, atol=1e-5)


def test_a_rank_above_that_of_the_layer_is_refused():
    tensors, delta = make_loha(rows=8, columns=16)
    found = loha_delta(layer_of(tensors))
    assert torch.allclose(found.matrix(CPU).double(), delta, atol=1e-5)
    with pytest.raises(ValueError) as error:
        found.low_rank()
    assert_one_sentence(error.value, "has rank 9", "at most 8")


@pytest.mark.parametrize(("part", "shape"), [("w1_a", (24, 4)), ("w2_a", (25, 3)), ("w2_b", (3, 17))])
def test_tensors_that_do_not_match_are_refused(part, shape):
    tensors, _ = make_loha()
    with pytest.raises(ValueError) as error:
        loha_delta(layer_of(tensors | {f"{NAME}.hada_{part}": torch.ones(shape)}))
    assert_one_sentence(error.value, NAME, "do not match")
