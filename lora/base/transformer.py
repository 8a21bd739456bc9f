"""What can be asked of the transformer of any family."""

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from lora.engine.options import spaced_block_indices


def embedder_weight(transformer: ModelMixin) -> Tensor:
    """A weight that has the transformer's device and precision, whatever the precision of its blocks.

    `transformer.device` and `.dtype` search all modules, which takes 10 ms: an eighth of a training step at 512 px.
    """
    return transformer.x_embedder.weight


def all_blocks(transformer: ModelMixin) -> list[nn.Module]:
    """The transformer's blocks, in the order in which they compute."""
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def spaced_blocks(transformer: ModelMixin, count: int) -> list[nn.Module]:
    """`count` of the transformer's blocks, spaced as evenly as possible, in the order in which they compute."""
    blocks = all_blocks(transformer)
    return [blocks[index] for index in spaced_block_indices(count, of=len(blocks))]
