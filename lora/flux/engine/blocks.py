"""How the blocks of a transformer are computed in training: what of them is kept, what is computed again."""

from functools import partial
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch._ops import OpOverload
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lora.flux.engine.choices import Recomputed

aten: Any = torch.ops.aten
ATTENTION = (
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
GELU_WIDENING = 4  # what goes into GELU is so many times as wide as the block; no other layer of FLUX widens so


def recompute(transformer: FluxTransformer2DModel, what: Recomputed) -> None:
    """Let the blocks keep less for the backward pass, and compute the rest again in it: the same numbers."""
    if what == "blocks":
        transformer.enable_gradient_checkpointing()
    elif what != "nothing":
        transformer.enable_gradient_checkpointing(partial(_keeping_products, is_gelu_input_kept=what == "pointwise"))


def _keeping_products(block: nn.Module, *inputs: object, is_gelu_input_kept: bool) -> Any:  # noqa: ANN401 (the block's)
    policy = partial(_policy, is_gelu_input_kept=is_gelu_input_kept)
    contexts = partial(create_selective_checkpoint_contexts, policy)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


def _policy(
    _context: SelectiveCheckpointContext, op: OpOverload, *operands: Any, is_gelu_input_kept: bool, **_options: object  # noqa: ANN401
) -> CheckpointPolicy:
    """Keep what attention and layers answer. The products of a LoRA, a hundredth of a layer's work, are made again."""
    is_kept = op in ATTENTION or (_is_of_layer(op, operands) and (is_gelu_input_kept or not _goes_into_gelu(operands)))
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def _is_of_layer(op: OpOverload, operands: tuple[Any, ...]) -> bool:
    """Whether it is the product of a layer: what is added is a bias [out], where a LoRA is added to [tokens, out]."""
    return op == aten.addmm.default and operands[0].dim() == 1


def _goes_into_gelu(operands: tuple[Any, ...]) -> bool:
    inputs, outputs = operands[2].shape
    return outputs == GELU_WIDENING * inputs
