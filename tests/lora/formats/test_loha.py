"""LoHa: the change that LyCORIS makes of it, whole or as one LoRA at the product of the ranks."""

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


def made(rows=24, columns=16):
    tensors, change = loha(NAME, rows, columns, torch.Generator().manual_seed(0))
    return tensors, change()


def test_the_change_is_the_elementwise_product_of_both():
    tensors, change = made()
    assert torch.allclose(loha_delta(layer_of(tensors)).matrix(CPU).double(), change, atol=1e-5)


def test_as_one_lora_it_is_the_same():
    tensors, change = made()
    pair = loha_delta(layer_of(tensors)).pair()
    assert pair.down.shape == (9, 16)
    assert pair.up.shape == (24, 9)
    assert torch.allclose(pair.up.double() @ pair.down.double(), change, atol=1e-5)


def test_it_is_exact_at_the_width_of_flux():
    tensors, change = made(rows=3072, columns=3072)
    found = loha_delta(layer_of(tensors))
    assert (found.matrix(CPU) - change).norm() < 1e-5 * change.norm()
    pair = found.pair()
    assert (pair.up.double() @ pair.down.double() - change).norm() < 1e-5 * change.norm()


def test_without_an_alpha_it_counts_whole():
    tensors, change = made()
    found = loha_delta(layer_of({name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}))
    assert torch.allclose(found.matrix(CPU).double(), change * 3 / ALPHA, atol=1e-4)


def test_the_two_products_may_have_different_ranks():
    """alpha is divided by the first."""
    tensors, _ = made()
    generator = torch.Generator().manual_seed(1)
    w2_a, w2_b = randn(generator, 24, 1), randn(generator, 1, 16)
    found = loha_delta(layer_of(tensors | {f"{NAME}.hada_w2_a": w2_a, f"{NAME}.hada_w2_b": w2_b}))
    first = tensors[f"{NAME}.hada_w1_a"] @ tensors[f"{NAME}.hada_w1_b"]
    assert torch.allclose(found.matrix(CPU), first * (w2_a @ w2_b) * ALPHA / 3, atol=1e-5)


def test_as_one_lora_its_rank_is_none_that_the_layer_cannot_have():
    tensors, change = made(rows=8, columns=16)
    found = loha_delta(layer_of(tensors))
    assert torch.allclose(found.matrix(CPU).double(), change, atol=1e-5)
    with pytest.raises(ValueError) as error:
        found.pair()
    assert_one_sentence(error.value, "the rank 9", "at most 8")


@pytest.mark.parametrize(("part", "shape"), [("w1_a", (24, 4)), ("w2_a", (25, 3)), ("w2_b", (3, 17))])
def test_parts_that_do_not_fit_are_refused(part, shape):
    tensors, _ = made()
    with pytest.raises(ValueError) as error:
        loha_delta(layer_of(tensors | {f"{NAME}.hada_{part}": torch.ones(shape)}))
    assert_one_sentence(error.value, NAME, "do not fit")
