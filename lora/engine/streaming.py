"""Stream the weights of blocks from host memory to the device, for each block only while it computes.

The weights are frozen, so they are copied in one direction only, from pinned memory. The device has two slots: while a
block computes with the weights in one, a second CUDA stream copies the weights of the next block into the other. Blocks
are expected in the order of a forward pass, and in reverse in a backward pass that recomputes each block.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from lora.engine.allocation import aligned
from lora.engine.linears import HostLinear

HOST_WEIGHTS = "host_weights"  # attribute of a layer with a streamed weight


class BlockStream:
    """Streams the weights of linear layers to the blocks that they are in.

    A block's weights are on the device from when the block is called until another one is. So a backward pass must
    recompute each block (`recomputed` is "blocks"): autograd, which runs in the reverse order of what was recorded, has
    then queued all work of a block before it recomputes the previous one.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """For blocks in the order in which they compute. Weights are added afterwards, with `store_weight`."""
        self._device = device
        self._host_weights = [_HostWeights(block, is_pinned=device.type == "cuda") for block in blocks]
        self._host_weights_of = {layer: weights for weights in self._host_weights for layer in weights.layers}
        self._current: _Slot | None = None
        self._direction = 1
        self._has_backward = True  # whether a backward pass may follow the pass that is running
        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._prepare, index))

    def includes(self, layer: nn.Module) -> TypeGuard[nn.Linear]:
        """Whether a layer's weight is to be streamed."""
        return layer in self._host_weights_of

    def begin_pass(self, *_: object) -> None:
        """Note whether gradients are enabled as a forward pass of the transformer begins. If not, no backward pass
        follows, although the blocks may be called with gradients enabled, and the next pass begins with the first
        block."""
        self._has_backward = torch.is_grad_enabled()

    def store_weight(self, layer: nn.Linear) -> None:
        """Move a layer's weight to host memory. An empty parameter remains on the device, which shows PEFT where a LoRA
        belongs."""
        weight = layer.weight.data  # for nf4, the codes as a plain tensor
        host_weights = self._host_weights_of[layer]
        host_weights.add(layer, weight.cpu())
        vars(layer)[HOST_WEIGHTS] = host_weights
        layer.weight.data = torch.empty(0, dtype=weight.dtype, device=self._device)

    def _prepare(self, index: int, *_: object) -> None:
        """Make the weights of a block available, and begin to copy those of the next one."""
        self._current = self._slot_of(index) or self._fetch(index)
        self._current.wait()
        following = self._following(index)
        if self._slot_of(following) is None:
            self._fetch(following)

    def _following(self, index: int) -> int:
        """The index of the next block. After an interrupted pass it may be wrong, and the next weights come late."""
        last = len(self._host_weights) - 1
        if index == last and not self._has_backward:
            return 0
        if index in (0, last):
            self._direction = 1 if index == 0 else -1
        return min(index + self._direction, last)

    def _slot_of(self, index: int) -> "_Slot | None":
        return next((slot for slot in self._slots if slot.holds(self._host_weights[index])), None)

    def _fetch(self, index: int) -> "_Slot":
        """Copy a block's weights to the slot that is not in use."""
        slot = next(slot for slot in self._slots if slot is not self._current)
        slot.load(self._host_weights[index])
        return slot

    @cached_property
    def _slots(self) -> tuple["_Slot", "_Slot"]:
        size = max(weights.memory.nbytes for weights in self._host_weights)
        with torch.inference_mode(False):  # inference tensors could not be used outside of it
            return _Slot(size, self._device), _Slot(size, self._device)


def stored_weight(layer: nn.Linear) -> Tensor:
    """A layer's weight where it is stored: in host memory, if it streams. Call `invalidate_device_copies` before
    writing to it."""
    host_weights: _HostWeights | None = vars(layer).get(HOST_WEIGHTS)
    return layer.weight if host_weights is None else host_weights.weights[layer]


def invalidate_device_copies(layer: nn.Linear) -> None:
    """Mark copies of a streamed weight on the device as outdated; call this before writing to the weight."""
    if is_streamed(layer):
        vars(layer)[HOST_WEIGHTS].version += 1


def is_streamed(layer: nn.Module) -> bool:
    """Whether a layer's weight is stored in host memory and streams to the device."""
    return HOST_WEIGHTS in vars(layer)


class _HostWeights:
    """The weights of a block's linear layers in host memory, contiguous."""

    def __init__(self, block: nn.Module, *, is_pinned: bool) -> None:
        linears = [each for each in block.modules() if isinstance(each, nn.Linear)]
        self.layers = [each for each in linears if not isinstance(each, HostLinear)]
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.version = 0  # incremented before a weight is written
        self._is_pinned = is_pinned
        self.weights: dict[nn.Linear, Tensor] = {}

    def add(self, layer: nn.Linear, weight: Tensor) -> None:
        """Add one layer's weight; after the last one, all are moved to contiguous memory."""
        self.weights[layer] = weight
        if len(self.weights) == len(self.layers):
            size = sum(aligned(each.nbytes) for each in self.weights.values())
            self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._is_pinned)
            self.weights = {each: view.copy_(self.weights[each]) for each, view in self.views(self.memory)}

    def views(self, memory: Tensor) -> Iterator[tuple[nn.Linear, Tensor]]:
        """Each layer with its weight, as a view of this memory or of a copy of it."""
        start = 0
        for layer, weight in self.weights.items():
            yield layer, memory[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
            start += aligned(weight.nbytes)


class _Slot:
    """A buffer on the device for the weights of one block."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._source: _HostWeights | None = None
        self._version = 0  # of the source
        self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._copy_stream is not None:
            # an error may free the slot during a copy: nothing else gets its memory before the copy ends
            self._memory.record_stream(self._copy_stream)
        self._copied: torch.cuda.Event | None = None

    def holds(self, source: _HostWeights) -> bool:
        """Whether the slot holds a block's weights in their current version."""
        return self._source is source and self._version == source.version

    def load(self, source: _HostWeights) -> None:
        """Copy a block's weights here, after all queued work that uses the slot's previous weights."""
        previous, self._source = self._source, None  # none until the copy is complete, as a cancel may come at any time
        for layer in previous.layers if previous else ():
            if self._contains(layer.weight):  # else the weight is in the other slot by now
                layer.weight.data = layer.weight.new_empty(0)
        with self._on_copy_stream():
            self._memory[: source.memory.nbytes].copy_(source.memory, non_blocking=True)
        with torch.inference_mode(False):  # views that are made in it would be inference tensors
            for layer, weight in source.views(self._memory):
                layer.weight.data = weight
        self._source, self._version = source, source.version

    def _contains(self, weight: Tensor) -> bool:
        return weight.untyped_storage().data_ptr() == self._memory.untyped_storage().data_ptr()

    def wait(self) -> None:
        """Make work that is queued from now on wait until the weights are copied."""
        if self._copied is not None:
            torch.cuda.current_stream(self._memory.device).wait_event(self._copied)

    @contextmanager
    def _on_copy_stream(self) -> Iterator[None]:
        if self._copy_stream is None:
            yield
            return
        self._copy_stream.wait_stream(torch.cuda.current_stream(self._memory.device))
        with torch.cuda.stream(self._copy_stream):
            yield
        self._copied = self._copy_stream.record_event()
