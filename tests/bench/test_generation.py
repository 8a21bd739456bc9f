"""The benchmark of generation compiles nothing after its images, which would take as long as they do."""

import pytest
import torch

from bench import generation
from bench.generation import ARMS, MERGED
from lora.engine.compilation import graphs_compiled

EXTENT = generation.small()
HOTSWAP = next(arm for arm in ARMS if "hotswapped" in arm.name)


@pytest.mark.parametrize("arm", [MERGED, HOTSWAP], ids=["ours", "hotswap"])
def test_the_error_of_a_velocity_needs_no_graph_that_images_did_not(arm, tmp_path):
    torch._dynamo.reset()
    applier = arm.make_applier(generation.random_base(EXTENT.sizes))
    transformer = applier.pipeline.transformer
    applier.apply({generation.write_loras(EXTENT.sizes, tmp_path)[0]: 1.0})
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
        block.forward = torch.compile(block.forward, backend="eager", fullgraph=True, dynamic=True)
    before = graphs_compiled()
    generation.generate(applier, EXTENT, 1)
    compiled = graphs_compiled()
    assert compiled > before
    assert generation.velocity_error(applier, EXTENT) == 0  # both are the merged weights, or PEFT's adapter
    assert graphs_compiled() == compiled
