"""How the blocks of a transformer are computed in training: what of them is kept, what is computed again."""

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

from lora.engine.compilation import Compute, compile_with_dynamic_shapes, plainly
from lora.engine.linears import NF4_PRODUCT
from lora.engine.options import Recomputed

aten: Any = torch.ops.aten
ATTENTION = (
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
GELU_WIDENING = 4  # what goes into GELU is so many times as wide as the block; no other layer of FLUX widens so


def configure_blocks(transformer: ModelMixin, recomputed: Recomputed, *, are_compiled: bool) -> None:
    """Let the blocks keep less for the backward pass, and compute the rest again in it: the same numbers.

    Compiled, each class of block is one graph for all sizes, another for batches of one, and rounds otherwise. That is
    for steps alone: where no gradient is asked for, blocks are computed as they are.
    """
    compute = plainly if are_compiled else _with_hooks
    if recomputed in ("pointwise", "gelu"):
        compute = _keeping_products(compute, recomputed)
    if are_compiled:
        compute = compile_with_dynamic_shapes(compute)
    if recomputed == "blocks":
        compute = partial(checkpoint, compute, use_reentrant=False)
    if are_compiled or recomputed != "nothing":
        transformer.enable_gradient_checkpointing(compute)


def _with_hooks(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
    return block(*inputs)


def _keeping_products(whole: Compute, recomputed: Recomputed) -> Compute:
    policy = partial(_policy, is_gelu_input_kept=recomputed == "pointwise")
    contexts = partial(create_selective_checkpoint_contexts, policy)

    def compute(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
        return checkpoint(whole, block, *inputs, use_reentrant=False, context_fn=contexts)

    return compute


def _policy(
    _context: SelectiveCheckpointContext,
    op: OpOverload,
    *operands: Any,  # noqa: ANN401 (tensors and numbers, as the operation has them)
    is_gelu_input_kept: bool,
    **_options: object,
) -> CheckpointPolicy:
    """Keep what attention and layers answer. The products of a LoRA, a hundredth of a layer's work, are made again."""
    sides = _sides_of_layer(op, operands)
    is_kept = op in ATTENTION or (sides is not None and (is_gelu_input_kept or not sides.lead_into_gelu))
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


class _Sides(NamedTuple):
    """Of a layer's weights."""

    inputs: int
    outputs: int

    @property
    def lead_into_gelu(self) -> bool:
        return self.outputs == GELU_WIDENING * self.inputs


def _sides_of_layer(op: OpOverload, operands: tuple[Any, ...]) -> _Sides | None:
    """None for what is no layer's product. A layer adds a bias [out] to it, a LoRA is added to [tokens, out]."""
    if op == aten.addmm.default and operands[0].dim() == 1:
        return _Sides(*operands[2].shape)
    if op == NF4_PRODUCT:
        outputs, inputs = operands[2]
        return _Sides(inputs, outputs)
    return None
