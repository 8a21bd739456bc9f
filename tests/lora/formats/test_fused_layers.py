"""A fused layer is split without changing its delta, block-diagonal or not, at any ranks."""

import pytest
import torch

from lora.formats.fused_layers import split_fused
from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.weight_deltas import LayerMapping, LowRankFactors
from tests.lora.formats.made import randn
from tests.tiny import assert_one_sentence

WIDTH = 8
BLOCK = "single_transformer_blocks.0"
LAYERS = (f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_k", f"{BLOCK}.attn.to_v", f"{BLOCK}.proj_mlp")
HEIGHTS = (WIDTH, WIDTH, WIDTH, 4 * WIDTH)
MAPPING = LayerMapping("transformer", LAYERS)


def factors_of_parts(*ranks):
    """down and up of each part; a part of rank 0 does not change."""
    generator = torch.Generator().manual_seed(0)
    sizes = zip(ranks, HEIGHTS, strict=True)
    return [(randn(generator, rank, WIDTH), randn(generator, height, rank)) for rank, height in sizes]


def fused(*ranks):
    """Fuse as networks/convert_flux_lora.py of sd-scripts does: down concatenated by rows, up as a block diagonal."""
    parts = factors_of_parts(*ranks)
    return LowRankFactors(torch.cat([down for down, _ in parts]), torch.block_diag(*(up for _, up in parts)))


@pytest.mark.parametrize("ranks", [(2, 2, 2, 2), (1, 2, 3, 4), (4, 1, 1, 2), (3, 3, 3, 1)])
def test_each_part_of_a_block_diagonal_layer_gets_its_own_matrices_back(ranks):
    found = dict(split_fused(fused(*ranks), MAPPING, FLUX1))
    for layer, (down, up) in zip(LAYERS, factors_of_parts(*ranks), strict=True):
        assert torch.equal(found[layer].down, down)
        assert torch.equal(found[layer].up, up)


def test_a_part_that_does_not_change_is_omitted():
    assert list(dict(split_fused(fused(2, 0, 3, 0), MAPPING, FLUX1))) == [LAYERS[0], LAYERS[2]]


def test_a_dense_layer_is_split_by_rows():
    generator = torch.Generator().manual_seed(0)
    dense = LowRankFactors(randn(generator, 3, WIDTH), randn(generator, sum(HEIGHTS), 3))
    found = dict(split_fused(dense, MAPPING, FLUX1))
    assert torch.equal(torch.cat([found[layer].up @ found[layer].down for layer in LAYERS]), dense.up @ dense.down)
    assert all(len(found[layer].down) == 3 for layer in LAYERS)


def test_rows_that_are_not_those_of_the_parts_are_refused():
    """FLUX.2 has an MLP of twice the width in this layer."""
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError) as error:
        list(split_fused(LowRankFactors(randn(generator, 3, WIDTH), randn(generator, 9 * WIDTH, 3)), MAPPING, FLUX1))
    assert_one_sentence(error.value, "has shape 72 x 8", *LAYERS, "expected 56 x 8, as in FLUX.1")
