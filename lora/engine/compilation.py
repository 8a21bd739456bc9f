"""Compile each class of block once, for all sizes; if the compiler fails, blocks run eagerly."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from lora.engine.linears import HostLinear

Compute = Callable[..., Any]  # a block and its inputs, in the order of its parameters
Tables = tuple[Tensor, Tensor]  # cosines and sines of positions, [tokens, head dimension]
LONGEST_REASON = 200  # characters of a compiler's message
FAILURES = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)


def can_be_compiled(device: torch.device) -> bool:
    """Whether compiling saves time on a device: on a CPU it takes longer than it saves."""
    return device.type == "cuda"


def forward_contiguous(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
    """The text and image tokens that a block returns, computed without its hooks and made contiguous.

    Single blocks return views of one tensor, double blocks separate tensors: without this, torch.compile would build
    one graph for each.
    """
    return tuple(each.contiguous() for each in block.forward(*inputs))


def compile_with_dynamic_shapes(compute: Compute) -> Compute:
    """Compile a function that computes a block as `forward_contiguous` does. Sizes that vary are marked as dynamic, so
    that no graph is specialized to the first sizes.

    The first block's inputs get a gradient that is not used, as those of all other blocks have one: otherwise the first
    block would need a graph of its own. Batches of one have a graph of their own. Backward passes are compiled together
    with forward passes. Forward pre-hooks of a block run outside of the graph; other hooks do not run. If the compiler
    fails, blocks run eagerly, with a warning.
    """
    torch._dynamo.reset()  # graphs of an earlier training would count against the limit
    torch._functorch.config.force_non_lazy_backward_lowering = True  # so that a failure shows before there is a loss
    fallback, graph = EagerFallback(_warn), torch.compile(compute, fullgraph=True)
    forwards: dict[nn.Module, Compute] = {}
    on_host: dict[nn.Module, list[HostLinear]] = {}

    def compiled(block: nn.Module, *inputs: Any) -> Any:  # noqa: ANN401 (the block's)
        for hook in block._forward_pre_hooks.values():
            hook(block, inputs)
        if block not in forwards:
            forwards[block] = fallback.or_eager(graph, compute)
            on_host[block] = [each for each in block.modules() if isinstance(each, HostLinear)]
        _mark_dynamic(*inputs[:4], outputs=[layer.output for layer in on_host[block] if layer.output is not None])
        return forwards[block](block, *inputs)

    return compiled


class EagerFallback:
    """Compiled functions with an eager fallback: after the compiler has failed once, nothing more is compiled."""

    def __init__(self, log_line: Callable[[str], object]) -> None:
        """`log_line` is called once, if the compiler fails."""
        self._log_line, self._has_failed = log_line, False

    def or_eager(self, compiled: Compute, eager: Compute) -> Compute:
        """A function for one block that calls `compiled`, or `eager`, which computes the same, after a failure.

        A block that has been compiled stays compiled when another block fails: a backward pass may be about to
        recompute it, and must find what the forward pass has kept.
        """
        is_compiled: bool | None = None  # not tried yet

        def call(*inputs: Any, **named: Any) -> Any:  # noqa: ANN401 (those of `compiled`)
            nonlocal is_compiled
            if is_compiled is None:
                is_compiled = not self._has_failed
            if is_compiled:
                try:
                    return compiled(*inputs, **named)
                except FAILURES as error:
                    is_compiled = False
                    self._fail(error)
            return eager(*inputs, **named)

        return call

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            self._log_line(f"torch.compile failed, so blocks are not compiled: {reason}")


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)


def _mark_dynamic(image: Tensor, text: Tensor, temb: Tensor, tables: Tables, *, outputs: list[Tensor]) -> None:
    """Mark the dimensions that vary: the number of tokens, and the number of samples."""
    by_sample = [(each, [0]) for each in (text, temb, *tables, *outputs)]
    for tensor, dimensions in ((image, [0, 1]), *by_sample):
        torch._dynamo.maybe_mark_dynamic(tensor, dimensions)
    for tensor in (image, text):
        if tensor.is_leaf:
            tensor.requires_grad_()
