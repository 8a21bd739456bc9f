"""How the blocks of a transformer are computed in training: what of them is kept, what is computed again."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from lora.flux.engine.choices import Recomputed
from lora.flux.holding import Held
from lora.flux.linears import NF4_PRODUCT

aten: Any = torch.ops.aten
ATTENTION = (
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
)
Compute = Callable[..., Any]  # a block and what it is asked, in the order of its own parameters
Tables = tuple[Tensor, Tensor]  # cosines and sines of places, [tokens, of a head]
GELU_WIDENING = 4  # what goes into GELU is so many times as wide as the block; no other layer of FLUX widens so


def compute_blocks(transformer: FluxTransformer2DModel, recomputed: Recomputed, *, are_compiled: bool) -> None:
    """Let the blocks keep less for the backward pass, and compute the rest again in it: the same numbers.

    Compiled, each class of block is one graph for all sizes and batches of more than one, and rounds otherwise. That
    is for steps alone: where no gradient is asked for, blocks are computed as they are.
    """
    compute = _whole if recomputed in ("nothing", "blocks") else _keeping_products(recomputed)
    if are_compiled:
        torch._dynamo.reset()  # graphs of the training before this one, which would count against the limit of them
        compute = _compiled_for_all_sizes(compute)
    if recomputed == "blocks":
        compute = partial(checkpoint, compute, use_reentrant=False)
    if are_compiled or recomputed != "nothing":
        transformer.enable_gradient_checkpointing(compute)


def _whole(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
    """Text and image tokens; whole, as single blocks answer with parts of one tensor, which to a graph is another
    input than what they get from double blocks."""
    return tuple(each.contiguous() for each in block(*inputs))


def _keeping_products(recomputed: Recomputed) -> Compute:
    policy = partial(_policy, is_gelu_input_kept=recomputed == "pointwise")
    contexts = partial(create_selective_checkpoint_contexts, policy)

    def compute(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
        return checkpoint(_whole, block, *inputs, use_reentrant=False, context_fn=contexts)

    return compute


def can_be_compiled(held: Held) -> bool:
    """On a CPU it takes longer than it saves; layers whose weights are rounded, or visit, were not tried in graphs."""
    are_visiting = held.modulation_on_host or held.streamed_blocks > 0
    return held.device.type == "cuda" and held.precision in ("fp32", "bf16") and not are_visiting


def _compiled_for_all_sizes(compute: Compute) -> Compute:
    """Say what differs from call to call, so that no graph is made for the first size alone. The first block's inputs
    get a gradient that nobody asks for, as all others' do: else it would be a graph of its own.

    A compiler that fails costs speed, and a warning, but not the training.
    """
    answer = torch.compile(compute, fullgraph=True)

    def compiled(block: nn.Module, image: Tensor, text: Tensor, temb: Tensor, tables: Tables, options: None) -> Any:  # noqa: ANN401 (the block's)
        nonlocal answer
        for tensor, sides in ((image, [0, 1]), (text, [0]), (temb, [0]), (tables[0], [0]), (tables[1], [0])):
            torch._dynamo.maybe_mark_dynamic(tensor, sides)
        for tensor in (image, text):
            if tensor.is_leaf:
                tensor.requires_grad_()
        try:
            return answer(block, image, text, temb, tables, options)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"blocks are not compiled: {reason}", stacklevel=2)
            answer = compute
            return answer(block, image, text, temb, tables, options)

    return compiled


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
