"""Data parallelism: each process of a training takes a part of every batch. A single process pays nothing for it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed import ProcessGroup, Work

BETWEEN_CHECKS = timedelta(seconds=1)  # while this process waits for others
ENDED = "a process of the training has ended, perhaps because memory ran out"


class EndedElsewhereError(RuntimeError):
    """Raised in a process that cannot go on, because another process of the training has ended or failed."""


@dataclass(frozen=True, slots=True)
class StepSums:
    """The sums over all processes in a step."""

    losses: Tensor  # [N], on the device
    stop_requests: Tensor  # number of processes that were asked to stop; scalar, on the device


class SingleProcess:
    """One process that takes whole batches."""

    rank, size = 0, 1

    def check(self) -> None:
        """Raise EndedElsewhereError if another process is known to have ended or failed."""

    def part(self, count: int) -> slice:
        """The slice of a batch of `count` samples that this process takes."""
        return slice(0, count)

    def all_reduce_gradients(self, parameters: list[nn.Parameter], *, losses: Tensor, should_stop: bool) -> StepSums:
        """Sum the gradients, losses [N] and stop requests over all processes."""
        del parameters
        return StepSums(losses, torch.full_like(losses[0], should_stop))

    def all_reduce(self, part: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the device; each process has its own part, and zeros elsewhere."""
        return part


class DataParallel(SingleProcess):
    """One of several processes that accelerate started. Each takes an equal part of a batch, the last ones less or
    nothing."""

    def __init__(
        self,
        *,
        rank: int,
        size: int,
        batch_size: int,
        group: ProcessGroup | None = None,
        host_group: ProcessGroup | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """The groups are those of torch.distributed, for gradients and for tensors in host memory; None is its default
        one. `check` raises EndedElsewhereError if something else than the groups has noticed that another process has
        ended or failed."""
        self.rank, self.size, self._batch_size = rank, size, batch_size
        self._group, self._host_group, self._check = group, host_group, check
        self.has_ended = False  # whether an EndedElsewhereError was raised here

    def check(self) -> None:
        """Raise EndedElsewhereError if another process is known to have ended or failed."""
        try:
            self._check()
        except EndedElsewhereError:
            self.has_ended = True
            raise

    def close(self) -> None:
        """Leave the groups, whose connections end with them."""
        for group in filter(None, (self._group, self._host_group)):
            torch.distributed.destroy_process_group(group)
        self._group = self._host_group = None

    def part(self, count: int) -> slice:
        """The slice of a batch of `count` samples that this process takes."""
        start = self.rank * self._batch_size
        return slice(start, min(start + self._batch_size, count))

    def all_reduce_gradients(self, parameters: list[nn.Parameter], *, losses: Tensor, should_stop: bool) -> StepSums:
        """Sum the gradients, losses [N] and stop requests over all processes, in one call.

        Raises EndedElsewhereError if another process has ended.
        """
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        extras = torch.cat([losses, torch.full_like(losses[:1], should_stop)])
        flat = self.all_reduce(torch.cat([*(gradient.flatten() for gradient in gradients), extras]))
        self._set_gradients(parameters, flat[: -len(extras)])
        return StepSums(flat[-len(extras) : -1], flat[-1])

    def all_reduce(self, part: Tensor) -> Tensor:
        """Sum a tensor on the device over all processes, in place; each process has its own part, and zeros elsewhere.

        Raises EndedElsewhereError if another process has ended.
        """
        self._together(partial(torch.distributed.all_reduce, part, group=self._group), part.device)
        return part

    def broadcast(self, block: Tensor) -> None:
        """Send a tensor in host memory from the first process to the others, into theirs.

        Raises EndedElsewhereError if another process has ended or failed.
        """
        self._together(partial(torch.distributed.broadcast, block, src=0, group=self._host_group), block.device)

    def _together(self, collective: Callable[..., Work | None], device: torch.device) -> None:
        try:
            self._wait(collective(async_op=True), device)
        except EndedElsewhereError:
            raise
        except RuntimeError as error:  # gloo and NCCL have messages of their own
            self.has_ended = True
            raise EndedElsewhereError(ENDED) from error

    def _wait(self, work: Work | None, device: torch.device) -> None:
        """Wait for a call of the group; on a GPU, where it is queued, only later work on the GPU waits."""
        assert work is not None, "this process is not in the group"
        if device.type == "cuda":
            work.wait()
            return
        while True:  # gloo's own timeout is that of the longest wait for a process that is alive
            try:
                work.wait(BETWEEN_CHECKS)
            except RuntimeError:
                if work.is_completed():
                    work.wait()  # raises its error, if it has one
                    return
                self.check()
            else:
                return

    def _set_gradients(self, parameters: list[nn.Parameter], flat: Tensor) -> None:
        for parameter, gradient in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            if parameter.grad is None:
                parameter.grad = gradient.view_as(parameter)
            else:  # in place, as it may be a view of the flat gradient of all parameters
                parameter.grad.copy_(gradient.view_as(parameter))
