"""Blocks as graphs: each class of block is compiled once, for all sizes; a compiler that fails costs speed alone."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from lora.engine.linears import HostLinear

Compute = Callable[..., Any]  # a block and what it is asked, in the order of its own parameters
Tables = tuple[Tensor, Tensor]  # cosines and sines of places, [tokens, of a head]
LONGEST_REASON = 200  # characters of what a compiler says
FAILURES = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)


def can_be_compiled(device: torch.device) -> bool:
    """Whether compiling pays on a device: on a CPU it takes longer than it saves."""
    return device.type == "cuda"


def plainly(block: nn.Module, *inputs: object) -> tuple[Tensor, ...]:
    """Text and image tokens, by a block without its hooks. They are whole, as single
    blocks answer with parts of one tensor, which to a graph is another input than what they get from double blocks."""
    return tuple(each.contiguous() for each in block.forward(*inputs))


def compile_with_dynamic_shapes(compute: Compute) -> Compute:
    """Compile what computes a block `plainly`, and say what differs from call to call, so that no graph is made for the
    first size alone.

    The first block's inputs get a gradient that nobody asks for, as all others' do: else it would be a graph of its
    own. Another graph is made for batches of one. Backward passes are compiled together with forward ones. Of a block's
    hooks those before it run, outside of the graph. A compiler that fails costs a warning, and speed.
    """
    torch._dynamo.reset()  # graphs of the training before this one, which would count against the limit of them
    torch._functorch.config.force_non_lazy_backward_lowering = True  # to know of a failure before there is a loss
    graphs, graph = Graphs(_warn), torch.compile(compute, fullgraph=True)
    answers: dict[nn.Module, Compute] = {}
    on_host: dict[nn.Module, list[HostLinear]] = {}

    def compiled(block: nn.Module, *inputs: Any) -> Any:  # noqa: ANN401 (the block's)
        for hook in block._forward_pre_hooks.values():
            hook(block, inputs)
        if block not in answers:
            answers[block] = graphs.or_eager(graph, compute)
            on_host[block] = [each for each in block.modules() if isinstance(each, HostLinear)]
        _mark(*inputs[:4], answers=[layer.answer for layer in on_host[block] if layer.answer is not None])
        return answers[block](block, *inputs)

    return compiled


class Graphs:
    """What is compiled, until the compiler fails; what it was not tried on by then is computed as it is."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` is told once, if it fails."""
        self._say, self._has_failed = say, False

    def or_eager(self, compiled: Compute, plain: Compute) -> Compute:
        """Computes what both compute, for one block. Where it was compiled it stays so though another block fails: a
        backward pass may be about to compute it again, and has to find what the forward pass has kept."""
        is_compiled: bool | None = None  # not tried

        def ask(*inputs: Any, **named: Any) -> Any:  # noqa: ANN401 (theirs)
            nonlocal is_compiled
            if is_compiled is None:
                is_compiled = not self._has_failed
            if is_compiled:
                try:
                    return compiled(*inputs, **named)
                except FAILURES as error:
                    is_compiled = False
                    self._fail(error)
            return plain(*inputs, **named)

        return ask

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._say(f"blocks are not compiled: {' '.join(str(error).split())[:LONGEST_REASON]}")


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)


def _mark(image: Tensor, text: Tensor, temb: Tensor, tables: Tables, *, answers: list[Tensor]) -> None:
    """Say which sides differ: those of tokens, and the number of samples."""
    by_sample = [(each, [0]) for each in (text, temb, *tables, *answers)]
    for tensor, sides in ((image, [0, 1]), *by_sample):
        torch._dynamo.maybe_mark_dynamic(tensor, sides)
    for tensor in (image, text):
        if tensor.is_leaf:
            tensor.requires_grad_()
