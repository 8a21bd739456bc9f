"""A layer that is several in diffusers is taken apart without a change, block-diagonal or not, at any ranks."""

import pytest
import torch

from lora.formats.fused_layers import placed
from lora.formats.weight_deltas import Pair, Place
from tests.lora.formats.made import randn
from tests.tiny import assert_one_sentence

WIDTH = 8
BLOCK = "single_transformer_blocks.0"
LAYERS = (f"{BLOCK}.attn.to_q", f"{BLOCK}.attn.to_k", f"{BLOCK}.attn.to_v", f"{BLOCK}.proj_mlp")
HEIGHTS = (WIDTH, WIDTH, WIDTH, 4 * WIDTH)
PLACE = Place("transformer", LAYERS)


def halves(*ranks):
    """down and up of each part; a rank of 0 leaves it alone."""
    generator = torch.Generator().manual_seed(0)
    sizes = zip(ranks, HEIGHTS, strict=True)
    return [(randn(generator, rank, WIDTH), randn(generator, height, rank)) for rank, height in sizes]


def fused(*ranks):
    """As networks/convert_flux_lora.py of sd-scripts fuses: down below one another, up along a diagonal."""
    parts = halves(*ranks)
    return Pair(torch.cat([down for down, _ in parts]), torch.block_diag(*(up for _, up in parts)))


@pytest.mark.parametrize("ranks", [(2, 2, 2, 2), (1, 2, 3, 4), (4, 1, 1, 2), (3, 3, 3, 1)])
def test_of_a_block_diagonal_layer_each_part_gets_its_own_matrices_back(ranks):
    found = dict(placed(fused(*ranks), PLACE))
    for layer, (down, up) in zip(LAYERS, halves(*ranks), strict=True):
        assert torch.equal(found[layer].down, down)
        assert torch.equal(found[layer].up, up)


def test_a_part_that_is_left_alone_gets_nothing():
    assert list(dict(placed(fused(2, 0, 3, 0), PLACE))) == [LAYERS[0], LAYERS[2]]


def test_a_dense_layer_is_cut_into_rows():
    generator = torch.Generator().manual_seed(0)
    pair = Pair(randn(generator, 3, WIDTH), randn(generator, sum(HEIGHTS), 3))
    found = dict(placed(pair, PLACE))
    assert torch.equal(torch.cat([found[layer].up @ found[layer].down for layer in LAYERS]), pair.up @ pair.down)
    assert all(len(found[layer].down) == 3 for layer in LAYERS)


def test_rows_that_are_not_those_of_the_parts_are_refused():
    """FLUX.2 has an MLP of twice the width in the same place."""
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError) as error:
        list(placed(Pair(randn(generator, 3, WIDTH), randn(generator, 9 * WIDTH, 3)), PLACE))
    assert_one_sentence(error.value, "72 x 8 weights", *LAYERS, "expected 56 x 8")
