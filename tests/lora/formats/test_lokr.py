"""LoKr: the change that LyCORIS makes of each of the four ways it stores it, whole or as one LoRA."""

import pytest
import torch

from lora.formats.decompositions.lokr import lokr_delta
from lora.formats.reading import convert_lora
from lora.formats.tensor_keys import group_by_layer
from tests.lora.formats.made import randn
from tests.tiny import assert_one_sentence

CPU = torch.device("cpu")
NAME = "lycoris_transformer_blocks_0_attn_to_q"


def layer_of(tensors):
    (layer,) = group_by_layer(tensors).layers
    return layer


def made(*, splits_first, splits_second, alpha=2.0, first=(4, 2), second=(6, 8), rank=2):
    """Of two factors, each whole or a product; and the change that LyCORIS makes of it."""
    generator = torch.Generator().manual_seed(0)
    tensors, factors = {f"{NAME}.alpha": torch.tensor(alpha)}, []
    for name, (rows, columns), splits in (("w1", first, splits_first), ("w2", second, splits_second)):
        if splits:
            left, right = randn(generator, rows, rank), randn(generator, rank, columns)
            tensors |= {f"{NAME}.lokr_{name}_a": left, f"{NAME}.lokr_{name}_b": right}
            factors.append(left.double() @ right.double())
        else:
            tensors[f"{NAME}.lokr_{name}"] = randn(generator, rows, columns)
            factors.append(tensors[f"{NAME}.lokr_{name}"].double())
    strength = alpha / rank if splits_first or splits_second else 1.0
    return tensors, torch.kron(*factors) * strength


@pytest.mark.parametrize("splits_first", [False, True])
@pytest.mark.parametrize("splits_second", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_the_change_is_the_kronecker_product(splits_first, splits_second, alpha):
    """Where both are whole, alpha counts for nothing."""
    tensors, change = made(splits_first=splits_first, splits_second=splits_second, alpha=alpha)
    found = lokr_delta(layer_of(tensors))
    assert torch.allclose(found.matrix(CPU).double(), change, atol=1e-5)
    pair = found.pair()
    assert torch.allclose(pair.up.double() @ pair.down.double(), change, atol=1e-5)


@pytest.mark.parametrize("rows", [[(0, 24)], [(5, 7)], [(3, 20)], [(12, 24), (0, 12)], [(13, 14), (2, 9)]])
def test_any_of_its_rows_are_those_of_the_change(rows):
    """Of parts of a fused layer, at which the factors need not end."""
    tensors, change = made(splits_first=False, splits_second=True)
    part = lokr_delta(layer_of(tensors)).rows(*(range(*each) for each in rows))
    expected = torch.cat([change[start:stop] for start, stop in rows])
    assert (part.shape.outputs, part.shape.inputs) == expected.shape
    assert torch.allclose(part.matrix(CPU).double(), expected, atol=1e-5)
    pair = part.pair()
    assert torch.allclose(pair.up.double() @ pair.down.double(), expected, atol=1e-5)


@pytest.mark.parametrize(("first", "rank"), [((4, 2), 4), ((2, 4), 4), ((3, 3), 6)])
def test_the_rank_is_the_product_of_those_of_the_factors(first, rank):
    tensors, change = made(splits_first=False, splits_second=True, first=first)
    pair = lokr_delta(layer_of(tensors)).pair()
    assert len(pair.down) == rank
    assert torch.allclose(pair.up.double() @ pair.down.double(), change, atol=1e-5)


def test_it_is_exact_at_the_width_of_flux():
    tensors, change = made(splits_first=False, splits_second=True, first=(8, 8), second=(384, 384), rank=4)
    found = lokr_delta(layer_of(tensors))
    assert (found.matrix(CPU) - change).norm() < 1e-5 * change.norm()
    pair = found.pair()
    assert pair.down.shape == (32, 3072)
    assert (pair.up.double() @ pair.down.double() - change).norm() < 1e-5 * change.norm()


def test_parts_of_a_fused_layer_share_nothing_where_the_first_factor_is_whole():
    """Three quarters of the rank are zeros in the rows of each, and cost nothing."""
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lokr_w1": randn(generator, 3, 4), f"{name}.lokr_w2_a": randn(generator, 32, 2)}
    pairs = convert_lora(tensors | {f"{name}.lokr_w2_b": randn(generator, 2, 8)}).transformer
    assert [len(change.pair().down) for change in pairs.values()] == [2, 2, 2]


def test_as_one_lora_its_rank_is_none_that_the_layer_cannot_have():
    tensors, change = made(splits_first=False, splits_second=True, first=(2, 2), second=(4, 4), rank=5)
    found = lokr_delta(layer_of(tensors))
    assert torch.allclose(found.matrix(CPU).double(), change, atol=1e-5)
    with pytest.raises(ValueError) as error:
        found.pair()
    assert_one_sentence(error.value, "the rank 10", "at most 8")


def test_it_takes_no_more_memory_than_its_file():
    """Of 400 thousand numbers, the change would have 10 to the 20."""
    tall, wide = torch.ones(100_000, 1), torch.ones(1, 100_000)
    tensors = {f"{NAME}.lokr_w1_a": tall, f"{NAME}.lokr_w1_b": wide}
    tensors |= {f"{NAME}.lokr_w2_a": tall, f"{NAME}.lokr_w2_b": wide}
    (change,) = convert_lora(tensors).transformer.values()
    assert sum(tensor.numel() for tensor in change.tensors) == 400_000
    assert (change.shape.outputs, change.shape.inputs) == (10**10, 10**10)


def test_parts_of_a_fused_layer_share_its_factors():
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    changes = convert_lora({f"{name}.lokr_w1": torch.ones(96, 48), f"{name}.lokr_w2": torch.ones(96, 64)}).transformer
    assert len({id(change.second.left) for change in changes.values()}) == 1
    assert {change.shape.outputs for change in changes.values()} == {3072}


def test_a_factor_that_is_both_whole_and_a_product_is_refused():
    tensors, _ = made(splits_first=False, splits_second=True)
    with pytest.raises(ValueError) as error:
        lokr_delta(layer_of(tensors | {f"{NAME}.lokr_w2": torch.ones(6, 8)}))
    assert_one_sentence(error.value, NAME, "both whole and as a product")


def test_halves_of_a_factor_that_do_not_fit_are_refused():
    tensors, _ = made(splits_first=False, splits_second=True)
    with pytest.raises(ValueError) as error:
        lokr_delta(layer_of(tensors | {f"{NAME}.lokr_w2_b": torch.ones(3, 8)}))
    assert_one_sentence(error.value, NAME, "do not fit")
