"""Checkpoint the blocks of a transformer in training: which intermediate results are kept, which are recomputed."""

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
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

aten: Any = torch.ops.aten
ATTENTION = (
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
GELU_WIDENING = 4  # GELU's input is so many times as wide as the block; no other layer of FLUX widens by this factor


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
    plain = forward_contiguous if are_compiled else _forward_with_hooks
    kept = _with_selective_checkpointing(plain, recomputed) if recomputed in ("pointwise", "gelu") else plain
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


def _forward_with_hooks(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
    return block(*inputs)


def _recomputing_some(kept: Compute, whole: frozenset[nn.Module], plain: Compute) -> Compute:
    """Recompute blocks in `whole`, and call `kept` for the others. `plain` must not contain selective checkpointing,
    which keeps its results whatever a checkpoint around it does."""

    def compute(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
        return recompute(plain, block, *inputs) if block in whole else kept(block, *inputs)

    return compute


def _with_selective_checkpointing(compute_block: Compute, recomputed: Recomputed) -> Compute:
    policy = partial(_policy, is_gelu_input_kept=recomputed == "pointwise")
    contexts = partial(create_selective_checkpoint_contexts, policy)

    def compute(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
        return recompute(compute_block, block, *inputs, context_fn=contexts)

    return compute


def _policy(
    _context: SelectiveCheckpointContext,
    op: OpOverload,
    *operands: Any,  # noqa: ANN401 (tensors and numbers, as the operation has them)
    is_gelu_input_kept: bool,
    **_options: object,
) -> CheckpointPolicy:
    """Keep the outputs of attention and linear layers. The products of a LoRA take a hundredth of a layer's time, and
    are recomputed."""
    weight_shape = _weight_shape(op, operands)
    is_kept = op in ATTENTION or (weight_shape is not None and (is_gelu_input_kept or not weight_shape.leads_into_gelu))
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


class _WeightShape(NamedTuple):
    """The size of a layer's weights."""

    inputs: int
    outputs: int

    @property
    def leads_into_gelu(self) -> bool:
        return self.outputs == GELU_WIDENING * self.inputs


def _weight_shape(op: OpOverload, operands: tuple[Any, ...]) -> _WeightShape | None:
    """The weights' size if an operation is the product of a linear layer, else None. A layer adds a bias [out] to it; a
    LoRA is added to [tokens, out]."""
    if op == aten.addmm.default and operands[0].dim() == 1:
        return _WeightShape(*operands[2].shape)
    if op == NF4_MATMUL:
        outputs, inputs = operands[2]
        return _WeightShape(inputs, outputs)
    return None
