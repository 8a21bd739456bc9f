"""Blocks whose weights stay in host memory and stream to the device, each for as long as it computes.

The weights are frozen: they go one way only, from pinned memory. The device has two slots: while a block computes with
the weights in one, those of the next block are on their way into the other, by a stream of their own. That is in the
order of a forward pass, and the other way round in a backward pass that computes each block again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from lora.engine.linears import HostLinear

ALIGNMENT = 512  # bytes, as torch's own allocator aligns
HOME = "home_of_weight"  # attribute of a layer whose weight streams


class BlockStream:
    """Streams the weights of linear layers to the blocks that they are in.

    A block's weights are there from when it is called until another one is. So a backward pass has to compute each
    block again (`recomputed` is "blocks"); autograd, which goes back in the reverse order of what was recorded, has
    then queued all work of a block before it calls the one that came before.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """To these blocks, in the order in which they compute. `keep` gives it weights, and not before."""
        self._device = device
        self._homes = [_Home(block, is_pinned=device.type == "cuda") for block in blocks]
        self._home_of = {layer: home for home in self._homes for layer in home.layers}
        self._current: _Slot | None = None
        self._direction = 1
        for place, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._visit, place))

    def takes(self, layer: nn.Module) -> TypeGuard[nn.Linear]:
        """Whether the weight of a layer streams."""
        return layer in self._home_of

    def keep(self, layer: nn.Linear) -> None:
        """Take the weight that a layer holds; what remains is an empty one on the device, which tells PEFT where a
        LoRA has to be."""
        weight = layer.weight.data  # of nf4: the codes alone, without their class
        home = self._home_of[layer]
        home.take(layer, weight.cpu())
        vars(layer)[HOME] = home
        layer.weight.data = torch.empty(0, dtype=weight.dtype, device=self._device)

    def _visit(self, place: int, *_: object) -> None:
        """Have the weights of a block there, and those of the next on their way."""
        self._current = self._slot_of(place) or self._fetch(place)
        self._current.wait()
        following = self._following(place)
        if self._slot_of(following) is None:
            self._fetch(following)

    def _following(self, place: int) -> int:
        """The block that is next, unless a pass was broken off: then its weights come late."""
        last = len(self._homes) - 1
        if place == last and not torch.is_grad_enabled():
            return 0
        if place in (0, last):
            self._direction = 1 if place == 0 else -1
        return min(place + self._direction, last)

    def _slot_of(self, place: int) -> "_Slot | None":
        return next((slot for slot in self._slots if slot.holds(self._homes[place])), None)

    def _fetch(self, place: int) -> "_Slot":
        """Into the slot whose block has computed."""
        slot = next(slot for slot in self._slots if slot is not self._current)
        slot.receive(self._homes[place])
        return slot

    @cached_property
    def _slots(self) -> tuple["_Slot", "_Slot"]:
        size = max(home.memory.nbytes for home in self._homes)
        with torch.inference_mode(False):  # such tensors would be of no use outside of it
            return _Slot(size, self._device), _Slot(size, self._device)


def stored_weight(layer: nn.Linear) -> Tensor:
    """A layer's weight where it is kept: in host memory, if it streams. Call `invalidate_device_copies` before writing to it."""
    home: _Home | None = vars(layer).get(HOME)
    return layer.weight if home is None else home.weights[layer]


def invalidate_device_copies(layer: nn.Linear) -> None:
    """Let what is on the device of a weight that streams, or on its way, not be used any more: it is to be written."""
    if streams(layer):
        vars(layer)[HOME].version += 1


def streams(layer: nn.Module) -> bool:
    """Whether a layer's weight is kept in host memory and streams."""
    return HOME in vars(layer)


class _Home:
    """The weights of a block's linear layers in host memory, in one piece."""

    def __init__(self, block: nn.Module, *, is_pinned: bool) -> None:
        linears = [each for each in block.modules() if isinstance(each, nn.Linear)]
        self.layers = [each for each in linears if not isinstance(each, HostLinear)]
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.version = 0  # how often a weight was, or was about to be, written
        self._is_pinned = is_pinned
        self.weights: dict[nn.Linear, Tensor] = {}

    def take(self, layer: nn.Linear, weight: Tensor) -> None:
        """One by one; when all are here, they move together."""
        self.weights[layer] = weight
        if len(self.weights) == len(self.layers):
            size = sum(map(_aligned_bytes, self.weights.values()))
            self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._is_pinned)
            self.weights = {each: view.copy_(self.weights[each]) for each, view in self.laid_out(self.memory)}

    def laid_out(self, memory: Tensor) -> Iterator[tuple[nn.Linear, Tensor]]:
        """Each layer with the part of this memory, or of a copy of it, that is its weight."""
        start = 0
        for layer, weight in self.weights.items():
            yield layer, memory[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
            start += _aligned_bytes(weight)


class _Slot:
    """Room on the device for the weights of one block."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._guest: _Home | None = None
        self._version = 0  # of the guest's weights
        self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrived: torch.cuda.Event | None = None

    def holds(self, home: _Home) -> bool:
        """Whether a block's weights are here, as they are now."""
        return self._guest is home and self._version == home.version

    def receive(self, home: _Home) -> None:
        """Let a block's weights come here, as soon as what is queued has computed with those that were here."""
        left, self._guest = self._guest, None  # a cancel may come at any moment: until all is here, nobody is
        for layer in left.layers if left else ():
            if self._has(layer.weight):  # else they are in the other slot by now
                layer.weight.data = layer.weight.new_empty(0)
        with self._beside_what_computes():
            self._memory[: home.memory.nbytes].copy_(home.memory, non_blocking=True)
        with torch.inference_mode(False):  # parts that were made in it would be tensors of another kind
            for layer, weight in home.laid_out(self._memory):
                layer.weight.data = weight
        self._guest, self._version = home, home.version

    def _has(self, weight: Tensor) -> bool:
        return weight.untyped_storage().data_ptr() == self._memory.untyped_storage().data_ptr()

    def wait(self) -> None:
        """Let what is queued from now on find the weights here."""
        if self._arrived is not None:
            torch.cuda.current_stream(self._memory.device).wait_event(self._arrived)

    @contextmanager
    def _beside_what_computes(self) -> Iterator[None]:
        if self._copying is None:
            yield
            return
        self._copying.wait_stream(torch.cuda.current_stream(self._memory.device))
        with torch.cuda.stream(self._copying):
            yield
        self._arrived = self._copying.record_event()


def _aligned_bytes(weight: Tensor) -> int:
    return -(-weight.nbytes // ALIGNMENT) * ALIGNMENT
