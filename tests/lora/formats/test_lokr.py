"""LoKr has the weight delta that LyCORIS computes, in all four ways to store it, whole or as one LoRA."""

import pytest
import torch

from lora.formats.decompositions.lokr import lokr_delta
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.reading import convert_lora
from lora.formats.tensor_keys import group_by_layer
from tests.lora.formats.made import randn
from tests.tiny import assert_one_sentence

CPU = torch.device("cpu")
NAME = "lycoris_transformer_blocks_0_attn_to_q"


def layer_of(tensors):
    (layer,) = group_by_layer(tensors).layers
    return layer


def make_lokr(*, splits_first, splits_second, alpha=2.0, first=(4, 2), second=(6, 8), rank=2):
    """A LoKr of two factors, each whole or a product, and the delta that LyCORIS computes."""
    generator = torch.Generator().manual_seed(0)
    tensors, matrices = {f"{NAME}.alpha": torch.tensor(alpha)}, []
    for name, (rows, columns), splits in (("w1", first, splits_first), ("w2", second, splits_second)):
        if splits:
            left, right = randn(generator, rows, rank), randn(generator, rank, columns)
            tensors |= {f"{NAME}.lokr_{name}_a": left, f"{NAME}.lokr_{name}_b": right}
            matrices.append(left.double() @ right.double())
        else:
            tensors[f"{NAME}.lokr_{name}"] = randn(generator, rows, columns)
            matrices.append(tensors[f"{NAME}.lokr_{name}"].double())
    scaling = alpha / rank if splits_first or splits_second else 1.0
    return tensors, torch.kron(*matrices) * scaling


@pytest.mark.parametrize("splits_first", [False, True])
@pytest.mark.parametrize("splits_second", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0])
def test_the_delta_is_the_kronecker_product(splits_first, splits_second, alpha):
    """If both factors are whole, alpha has no effect."""
    tensors, delta = make_lokr(splits_first=splits_first, splits_second=splits_second, alpha=alpha)
    found = lokr_delta(layer_of(tensors))
    assert torch.allclose(found.matrix(CPU).double(), delta, atol=1e-5)
    factors = found.low_rank()
    assert torch.allclose(factors.up.double() @ factors.down.double(), delta, atol=1e-5)


@pytest.mark.parametrize("rows", [[(0, 24)], [(5, 7)], [(3, 20)], [(12, 24), (0, 12)], [(13, 14), (2, 9)]])
def test_any_rows_equal_those_of_the_delta(rows):
    """The parts of a fused layer need not end where those of a factor do."""
    tensors, delta = make_lokr(splits_first=False, splits_second=True)
    part = lokr_delta(layer_of(tensors)).rows(*(range(*each) for each in rows))
    expected = torch.cat([delta[start:stop] for start, stop in rows])
    assert (part.shape.outputs, part.shape.inputs) == expected.shape
    assert torch.allclose(part.matrix(CPU).double(), expected, atol=1e-5)
    factors = part.low_rank()
    assert torch.allclose(factors.up.double() @ factors.down.double(), expected, atol=1e-5)


@pytest.mark.parametrize(("first", "rank"), [((4, 2), 4), ((2, 4), 4), ((3, 3), 6)])
def test_the_rank_is_the_product_of_the_ranks_of_the_factors(first, rank):
    tensors, delta = make_lokr(splits_first=False, splits_second=True, first=first)
    factors = lokr_delta(layer_of(tensors)).low_rank()
    assert len(factors.down) == rank
    assert torch.allclose(factors.up.double() @ factors.down.double(), delta, atol=1e-5)


def test_it_is_exact_at_the_width_of_flux():
    tensors, delta = make_lokr(splits_first=False, splits_second=True, first=(8, 8), second=(384, 384), rank=4)
    found = lokr_delta(layer_of(tensors))
    assert (found.matrix(CPU) - delta).norm() < 1e-5 * delta.norm()
    factors = found.low_rank()
    assert factors.down.shape == (32, 3072)
    assert (factors.up.double() @ factors.down.double() - delta).norm() < 1e-5 * delta.norm()


def test_parts_of_a_fused_layer_keep_only_their_own_rank_if_the_first_factor_is_whole():
    """Columns that are zero in the rows of a part are dropped."""
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lokr_w1": randn(generator, 3, 4), f"{name}.lokr_w2_a": randn(generator, 32, 2)}
    deltas = convert_lora(tensors | {f"{name}.lokr_w2_b": randn(generator, 2, 8)}, FLUX1).transformer
    assert [len(delta.low_rank().down) for delta in deltas.values()] == [2, 2, 2]


def test_a_rank_above_that_of_the_layer_is_refused():
    tensors, delta = make_lokr(splits_first=False, splits_second=True, first=(2, 2), second=(4, 4), rank=5)
    found = lokr_delta(layer_of(tensors))
    assert torch.allclose(found.matrix(CPU).double(), delta, atol=1e-5)
    with pytest.raises(ValueError) as error:
        found.low_rank()
    assert_one_sentence(error.value, "has rank 10", "at most 8")


def test_it_takes_no_more_memory_than_its_file():
    """It has 400 thousand numbers; its delta would have 10 to the 20."""
    tall, wide = torch.ones(100_000, 1), torch.ones(1, 100_000)
    tensors = {f"{NAME}.lokr_w1_a": tall, f"{NAME}.lokr_w1_b": wide}
    tensors |= {f"{NAME}.lokr_w2_a": tall, f"{NAME}.lokr_w2_b": wide}
    (delta,) = convert_lora(tensors, FLUX1).transformer.values()
    assert sum(tensor.numel() for tensor in delta.tensors) == 400_000
    assert (delta.shape.outputs, delta.shape.inputs) == (10**10, 10**10)


def test_parts_of_a_fused_layer_share_its_factors():
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    deltas = convert_lora(
        {f"{name}.lokr_w1": torch.ones(96, 48), f"{name}.lokr_w2": torch.ones(96, 64)}, FLUX1
    ).transformer
    assert len({id(delta.second.left) for delta in deltas.values()}) == 1
    assert {delta.shape.outputs for delta in deltas.values()} == {3072}


def test_a_factor_that_is_both_whole_and_a_product_is_refused():
    tensors, _ = make_lokr(splits_first=False, splits_second=True)
    with pytest.raises(ValueError) as error:
        lokr_delta(layer_of(tensors | {f"{NAME}.lokr_w2": torch.ones(6, 8)}))
    assert_one_sentence(error.value, NAME, "both as one matrix and as two")


def test_matrices_of_a_factor_with_different_ranks_are_refused():
    tensors, _ = make_lokr(splits_first=False, splits_second=True)
    with pytest.raises(ValueError) as error:
        lokr_delta(layer_of(tensors | {f"{NAME}.lokr_w2_b": torch.ones(3, 8)}))
    assert_one_sentence(error.value, NAME, "do not match")
