"""The processes of one training, each with its share of every batch. One alone pays nothing for it."""

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Sums:
    """What all processes found in a step, added up."""

    losses: Tensor  # [N], on the device
    wishes: Tensor  # how many processes were asked to stop; scalar, on the device


class SingleProcess:
    """One process with the whole batch."""

    rank, size = 0, 1

    def part(self, count: int) -> slice:
        """The places in a batch of so many samples that this process takes."""
        return slice(0, count)

    def all_reduce_gradients(self, parameters: list[nn.Parameter], *, losses: Tensor, should_stop: bool) -> Sums:
        """Make every process's gradients the sum of all; and so with losses [N] and the wish to stop."""
        del parameters
        return Sums(losses, torch.full_like(losses[0], should_stop))

    def joined(self, part: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the device, where each has its own part and else zeros."""
        return part


class DataParallel(SingleProcess):
    """Several processes, started by accelerate; each takes an equal share of a batch, the last ones less or nothing."""

    def __init__(self, *, rank: int, size: int, batch_size: int) -> None:
        self.rank, self.size, self._batch_size = rank, size, batch_size

    def part(self, count: int) -> slice:
        """The places in a batch of so many samples that this process takes."""
        start = self.rank * self._batch_size
        return slice(start, min(start + self._batch_size, count))

    def all_reduce_gradients(self, parameters: list[nn.Parameter], *, losses: Tensor, should_stop: bool) -> Sums:
        """Make every process's gradients the sum of all, in one call; and so with losses [N] and the wish to stop.

        Raises RuntimeError if another process has ended.
        """
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        extras = torch.cat([losses, torch.full_like(losses[:1], should_stop)])
        flat = self.joined(torch.cat([*(gradient.flatten() for gradient in gradients), extras]))
        self._give(parameters, flat[: -len(extras)])
        return Sums(flat[-len(extras) : -1], flat[-1])

    def joined(self, part: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the device, where each has its own part and else zeros; in place.

        Raises RuntimeError if another process has ended.
        """
        try:
            torch.distributed.all_reduce(part)
        except RuntimeError as error:  # in the words of gloo or NCCL
            raise RuntimeError("a process of the training is gone, as if killed: memory may have run out") from error
        return part

    def _give(self, parameters: list[nn.Parameter], flat: Tensor) -> None:
        for parameter, gradient in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            if parameter.grad is None:
                parameter.grad = gradient.view_as(parameter)
            else:  # which may be a part of one gradient of all
                parameter.grad.copy_(gradient.view_as(parameter))
