"""Data parallelism: each process of a training takes a part of every batch. A single process pays nothing for it."""

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class StepSums:
    """The sums over all processes in a step."""

    losses: Tensor  # [N], on the device
    stop_requests: Tensor  # number of processes that were asked to stop; scalar, on the device


class SingleProcess:
    """One process that takes whole batches."""

    rank, size = 0, 1

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

    def __init__(self, *, rank: int, size: int, batch_size: int) -> None:
        self.rank, self.size, self._batch_size = rank, size, batch_size

    def part(self, count: int) -> slice:
        """The slice of a batch of `count` samples that this process takes."""
        start = self.rank * self._batch_size
        return slice(start, min(start + self._batch_size, count))

    def all_reduce_gradients(self, parameters: list[nn.Parameter], *, losses: Tensor, should_stop: bool) -> StepSums:
        """Sum the gradients, losses [N] and stop requests over all processes, in one call.

        Raises RuntimeError if another process has ended.
        """
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        extras = torch.cat([losses, torch.full_like(losses[:1], should_stop)])
        flat = self.all_reduce(torch.cat([*(gradient.flatten() for gradient in gradients), extras]))
        self._set_gradients(parameters, flat[: -len(extras)])
        return StepSums(flat[-len(extras) : -1], flat[-1])

    def all_reduce(self, part: Tensor) -> Tensor:
        """Sum a tensor on the device over all processes, in place; each process has its own part, and zeros elsewhere.

        Raises RuntimeError if another process has ended.
        """
        try:
            torch.distributed.all_reduce(part)
        except RuntimeError as error:  # gloo and NCCL have messages of their own
            raise RuntimeError("a process of the training has ended, perhaps because memory ran out") from error
        return part

    def _set_gradients(self, parameters: list[nn.Parameter], flat: Tensor) -> None:
        for parameter, gradient in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            if parameter.grad is None:
                parameter.grad = gradient.view_as(parameter)
            else:  # in place, as it may be a view of the flat gradient of all parameters
                parameter.grad.copy_(gradient.view_as(parameter))
