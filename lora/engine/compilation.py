"""Compile each class of block once, for all sizes; if the compiler fails, blocks run eagerly."""

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lora.engine.linears import HostLinear
from lora.engine.out_of_memory import is_out_of_memory

Compute = Callable[..., Any]  # a block and its inputs, in the order of its parameters
LONGEST_REASON = 200  # characters of a compiler's message
COMPILER_ERRORS: tuple[type[Exception], ...] = (
    torch._dynamo.exc.TorchDynamoException,
    torch._dynamo.exc.FailOnRecompileLimitHit,
)


def can_be_compiled(device: torch.device) -> bool:
    """Whether compiling saves time on a device: on a CPU it takes longer than it saves."""
    return device.type == "cuda"


def forward_contiguous(block: nn.Module, *inputs: object) -> Tensor | tuple[Tensor, ...]:
    """The tokens that a block returns, computed without its hooks, each tensor in memory of its own.

    In FLUX.1, single blocks return views of one tensor, double blocks separate tensors: without this, torch.compile
    would build one graph for each. `contiguous` would not do, as it returns a view of a single sample as it is. In
    FLUX.2, single blocks return that one tensor.
    """
    outputs = block.forward(*inputs)
    if isinstance(outputs, Tensor):
        return outputs
    return tuple(each.clone(memory_format=torch.contiguous_format) for each in outputs)


def _without_view(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or a copy if it is a view, as the first block's inputs are: a view would need a graph of its own."""
    if tensor is None or tensor._base is None:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def compile_with_dynamic_shapes(compute: Compute, fallback: "EagerFallback") -> Compute:
    """Compile a function that computes a block as `forward_contiguous` does. Sizes that vary are marked as dynamic, so
    that no graph is specialized to the first sizes.

    The first block's inputs get a gradient that is not used, as those of all other blocks have one: otherwise the first
    block would need a graph of its own. Batches of one have a graph of their own. Forward pre-hooks of a block run
    outside of the graph; other hooks do not run. If the compiler fails, or if the kernels of a new graph fail, in the
    forward or the backward pass, blocks run eagerly.
    """
    torch._dynamo.reset()  # graphs of an earlier training would count against the limit
    graph = _trying_backward(torch.compile(compute, fullgraph=True))
    forwards: dict[nn.Module, Compute] = {}
    on_host: dict[nn.Module, list[HostLinear]] = {}

    def compiled(block: nn.Module, *inputs: Any) -> Any:  # noqa: ANN401 (the block's)
        inputs = *map(_without_view, inputs[:2]), *inputs[2:]
        for hook in block._forward_pre_hooks.values():
            hook(block, inputs)
        if block not in forwards:
            forwards[block] = fallback.or_eager(graph, compute)
            on_host[block] = [each for each in block.modules() if isinstance(each, HostLinear)]
        _mark_dynamic(*inputs, outputs=[layer.output for layer in on_host[block] if layer.output is not None])
        return forwards[block](block, *inputs)

    return compiled


def graphs_compiled() -> int:
    """The number of graphs that torch.compile has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


class EagerFallback:
    """Compiled functions with an eager fallback: after the compiler has failed once, or the first run of what it
    compiled, nothing more is compiled."""

    def __init__(self, log_line: Callable[[str], object]) -> None:
        """`log_line` is called once, if the compiler fails."""
        self._log_line, self._has_failed = log_line, False
        self._errors = (*COMPILER_ERRORS, *_kernel_errors())

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
                before = graphs_compiled()
                try:
                    return compiled(*inputs, **named)
                except self._errors as error:
                    is_first_run = graphs_compiled() > before and not is_out_of_memory(error)
                    if not is_first_run and not isinstance(error, COMPILER_ERRORS):
                        raise
                    is_compiled = False
                    self._fail(error)
            return eager(*inputs, **named)

        return call

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            self._log_line(f"torch.compile failed, so blocks are not compiled: {reason}")


def _kernel_errors() -> tuple[type[Exception], ...]:
    """What the launch of a generated kernel can raise."""
    if find_spec("triton") is None:
        return (RuntimeError,)
    return RuntimeError, import_module("triton.runtime.errors").TritonError


def _trying_backward(graph: Compute) -> Compute:
    """A compiled function for training that runs each new graph once in both directions before it is used: a failure to
    compile or to launch its kernels then shows here, and not after the loss, when it could only end the training."""
    tried: set[tuple[type[nn.Module], bool]] = set()

    def call(block: nn.Module, image: Tensor, *others: Any) -> Any:  # noqa: ANN401 (the block's)
        which = type(block), len(image) == 1
        if which not in tried:
            _run_both_ways(graph, block, image, *others)
            tried.add(which)
        return graph(block, image, *others)

    return call


def _run_both_ways(graph: Compute, block: nn.Module, image: Tensor, text: Tensor | None, *others: object) -> None:
    with torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged):  # not those of a checkpoint around it
        outputs = graph(block, image, text, *others)
    sums = [each.sum() for each in ((outputs,) if isinstance(outputs, Tensor) else outputs)]
    torch.autograd.grad(sums, [each for each in (image, text) if each is not None])


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def warn(line: str) -> None:
    """Issue a warning, also if the same one was issued before: each training of a process needs its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(line, stacklevel=2)


def _mark_dynamic(image: Tensor, text: Tensor | None, *others: Any, outputs: list[Tensor]) -> None:  # noqa: ANN401 (the block's)
    """Mark the dimensions that vary: the number of tokens, and the number of samples. `others` are what modulates the
    block, one tensor or two [samples, ...], then the tables and the options of attention."""
    *modulation, tables, _ = others
    tokens = [image] if text is None else [image, text]
    by_sample = [(each, [0]) for each in (*tokens[1:], *modulation, *tables, *outputs)]
    for tensor, dimensions in ((image, [0, 1]), *by_sample):
        torch._dynamo.maybe_mark_dynamic(tensor, dimensions)
    for tensor in tokens:
        if tensor.is_leaf:
            tensor.requires_grad_()
