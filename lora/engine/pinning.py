"""Keep weights in pinned (page-locked) host memory, from which a GPU copies them several times as fast."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lora.engine.allocation import aligned, pinned

RESERVE = 2_000_000_000  # bytes of host memory that stay free; our estimate
BUFFER_BYTES = 2**30  # torch rounds each pinned allocation up to a power of two, so weights share buffers of this size


def has_room_to_pin(module: nn.Module, *, free_bytes: int) -> bool:
    """Whether enough of the host's free memory stays free: pinned memory can be neither swapped nor dropped."""
    return free_bytes - sum(each.nbytes for each in module.parameters()) >= RESERVE


def pin_weights(module: nn.Module) -> None:
    """Move the parameters of a module on the host to pinned memory, which replaces what they had. They stay the same
    objects. Where memory cannot be pinned, for want of a GPU or of memory, the rest stays where it is."""
    try:
        pack(module.parameters(), _pinned)
    except RuntimeError:  # torch raises this for either; the weights work as before, only slower
        return


def pack(parameters: Iterable[nn.Parameter], allocate: Callable[[int], Tensor]) -> None:
    """Move parameters, one after the other, into buffers that `allocate` returns for a number of bytes, each a power of
    two. Raises what `allocate` raises; the parameters that are not moved yet keep their memory."""
    waiting = list(parameters)
    remaining = sum(aligned(each.nbytes) for each in waiting)
    buffer, used = torch.empty(0, dtype=torch.uint8), 0
    for parameter in waiting:
        size = aligned(parameter.nbytes)
        if used + size > buffer.nbytes:
            buffer, used = allocate(pinned(max(size, min(remaining, BUFFER_BYTES)))), 0
        place = buffer[used : used + parameter.nbytes].view(parameter.dtype).view(parameter.shape)
        parameter.data = place.copy_(parameter.data)
        used, remaining = used + size, remaining - size


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)
