"""Checkpoint the blocks of a transformer in training: which intermediate results are kept, which are recomputed."""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn
from torch._ops import OpOverload
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lora.engine.compilation import Compute, EagerFallback, compile_with_dynamic_shapes, forward_contiguous, warn
from lora.engine.linears import NF4_MATMUL
from lora.engine.options import Recomputed

Shape = tuple[int, int]  # inputs and outputs of a linear layer

aten: Any = torch.ops.aten
ATTENTION = (
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
NORM = "norm"  # begins the names of what modulates a block, whose layers see no token


# Blocks use no random numbers, so their state need not be saved and restored for each of them.
recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def configure_blocks(
    transformer: ModelMixin, recomputed: Recomputed, *, are_compiled: bool, whole: Collection[nn.Module] = ()
) -> None:
    """Make the blocks keep less for the backward pass and recompute the rest in it, with the same results.

    The blocks in `whole` keep only their input, whatever `recomputed` is. If compiled, each class of block becomes one
    graph for all sizes and another for batches of one, and rounds differently; some of its blocks in `whole`, some not,
    is twice as many. This affects training steps only: without gradients, blocks compute as before.
    """
    plain: Compute = forward_contiguous if are_compiled else _forward_with_hooks
    kept = plain
    if recomputed in ("pointwise", "gelu"):
        kept = _with_selective_checkpointing(plain, _shapes_of_kept_products(transformer, recomputed))
    if are_compiled:
        fallback = EagerFallback(warn)
        compiled = {each: compile_with_dynamic_shapes(each, fallback) for each in {plain, kept}}
        plain, kept = compiled[plain], compiled[kept]
    if recomputed == "blocks":
        kept = partial(recompute, plain)
    if whole:
        kept = _recomputing_some(kept, frozenset(whole), plain)
    if are_compiled or recomputed != "nothing" or whole:
        transformer.enable_gradient_checkpointing(kept)


def _forward_with_hooks(block: nn.Module, *inputs: object) -> Any:  # noqa: ANN401 (the block's)
    return block(*inputs)


def _recomputing_some(kept: Compute, whole: frozenset[nn.Module], plain: Compute) -> Compute:
    """Recompute blocks in `whole`, and call `kept` for the others. `plain` must not contain selective checkpointing,
    which keeps its results whatever a checkpoint around it does."""

    def compute(block: nn.Module, *inputs: object) -> Any:  # noqa: ANN401 (the block's)
        return recompute(plain, block, *inputs) if block in whole else kept(block, *inputs)

    return compute


def _with_selective_checkpointing(compute_block: Compute, shapes: frozenset[Shape]) -> Compute:
    contexts = partial(create_selective_checkpoint_contexts, partial(_policy, shapes=shapes))

    def compute(block: nn.Module, *inputs: object) -> Any:  # noqa: ANN401 (the block's)
        return recompute(compute_block, block, *inputs, context_fn=contexts)

    return compute


def _shapes_of_kept_products(transformer: ModelMixin, recomputed: Recomputed) -> frozenset[Shape]:
    """The sizes of the layers whose outputs are kept: with "pointwise" all, with "gelu" not those that lead into the
    activation of a feed-forward, which are the only ones that make a token wider."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    named = [each for block in blocks for each in block.named_modules()]
    sizes = {
        (layer.in_features, layer.out_features): layer.out_features > layer.in_features and not name.startswith(NORM)
        for name, layer in named
        if isinstance(layer, nn.Linear) and ".lora_" not in name
    }
    return frozenset(size for size, is_wide in sizes.items() if recomputed == "pointwise" or not is_wide)


def _policy(
    _context: SelectiveCheckpointContext,
    op: OpOverload,
    *operands: Any,  # noqa: ANN401 (tensors and numbers, as the operation has them)
    shapes: frozenset[Shape],
    **_options: object,
) -> CheckpointPolicy:
    """Keep the outputs of attention, and of linear layers of these sizes. The products of a LoRA take a hundredth of a
    layer's time, and are recomputed: no layer has as few outputs as a LoRA has ranks."""
    is_kept = op in ATTENTION or _shape_of_weight(op, operands) in shapes
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def _shape_of_weight(op: OpOverload, operands: tuple[Any, ...]) -> Shape | None:
    """The size of the second factor of a product, else None. A layer with a bias [out] adds it in the same operation; a
    LoRA is added to [tokens, out]. Without a bias, torch multiplies samples separately (bmm) if the input is a part of
    each, such as the tokens of the image after attention."""
    if op == aten.addmm.default and operands[0].dim() == 1:
        weight = operands[2].shape
    elif op in (aten.mm.default, aten.bmm.default):
        weight = operands[1].shape[-2:]
    elif op == NF4_MATMUL:
        weight = reversed(operands[2])
    else:
        return None
    inputs, outputs = weight
    return inputs, outputs
