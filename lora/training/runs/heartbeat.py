"""Notices within a minute when a process of a training on several machines is gone, and when one of them has failed.

A killed process closes its connections, but a machine without power or network does not: so every second, each process
sends a heartbeat to the first one, which answers. Knows nothing of what is trained.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed
from torch.distributed import ProcessGroup, Work

SECONDS_BETWEEN = 1.0
LOST, RUNNING, LEAVING = -1, 0, 1  # what a process says of itself, and the first one of all


class Heartbeat:
    """A thread that exchanges heartbeats. It calls `on_loss` with the rank that is lost, or with None in a process that
    the first one has told that another one is lost; and `on_failure` if an attempt has failed in another process."""

    def __init__(
        self,
        group: ProcessGroup,
        *,
        rank: int,
        size: int,
        longest_silence: timedelta,
        on_loss: Callable[[int | None], None],
        on_failure: Callable[[], None],
    ) -> None:
        """`group` is one of gloo that nothing else uses. A process counts as lost after `longest_silence`; the first
        one, which may have waited that long for another one before it answers, after half as much again."""
        self._group, self._rank, self._size = group, rank, size
        self._longest_silence, self._on_loss, self._on_failure = longest_silence, on_loss, on_failure
        self._answers: list[Work | None] = []  # kept until they are sent
        self._state, self._failed_attempt, self._wake = RUNNING, 0, threading.Event()
        self.failed_attempt = 0  # the number of the last attempt that failed in any process; 0 without one
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start to exchange heartbeats."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether no process is lost yet."""
        return self._thread.is_alive()

    def report_failure(self, attempt: int) -> None:
        """Tell the other processes that this attempt has failed here."""
        self._failed_attempt = attempt
        self.hurry()

    def hurry(self) -> None:
        """Exchange the next heartbeat at once."""
        self._wake.set()

    def stop(self) -> None:
        """Say that this process leaves, and wait until all do."""
        self._state = LEAVING
        self.hurry()
        self._thread.join()

    def _run(self) -> None:
        """Exchange heartbeats until all processes leave or one is lost."""
        exchange = self._collect if self._rank == 0 else self._ask
        while True:
            own = torch.tensor([self._state, self._failed_attempt])
            lost, (state, failed) = exchange(own)
            if state == LOST:
                self._on_loss(lost)
                return
            if state == LEAVING:
                return
            if failed > self.failed_attempt:
                self.failed_attempt = failed
                self._on_failure()
            self._wake.wait(SECONDS_BETWEEN)
            self._wake.clear()

    def _collect(self, own: torch.Tensor) -> tuple[int | None, list[int]]:
        """In the first process: the rank that is lost, and what is true of all, which the others are told."""
        others = range(1, self._size)
        heartbeats = {rank: own.clone() for rank in others}
        received = {rank: self._receive(heartbeats[rank], rank) for rank in others}
        lost = next((rank for rank in others if not _has_ended(received[rank], self._longest_silence)), None)
        every = torch.stack([own, *heartbeats.values()])
        common = torch.stack([every[:, 0].min() if lost is None else torch.tensor(LOST), every[:, 1].max()])
        self._answers = [self._send_to(rank, common) for rank in others if rank != lost]
        if lost is None:  # then they end at once, as each process waits for the answer before it sends its heartbeat
            for answer in self._answers:
                _has_ended(answer, self._longest_silence)
        return lost, common.tolist()

    def _ask(self, own: torch.Tensor) -> tuple[int | None, list[int]]:
        """In the other processes: the same, as far as the first one says it."""
        common = torch.tensor([LOST, 0])
        answer = self._receive(common, 0)
        sent = self._send_to(0, own)  # ends when the first process takes it, before it answers
        is_told = sent is not None and _has_ended(answer, 1.5 * self._longest_silence)
        return (None, common.tolist()) if is_told else (0, [LOST, 0])

    def _receive(self, into: torch.Tensor, rank: int) -> Work | None:
        with suppress(RuntimeError):  # of gloo: the other process is gone
            return torch.distributed.irecv(into, rank, self._group)
        return None

    def _send_to(self, rank: int, heartbeat: torch.Tensor) -> Work | None:
        with suppress(RuntimeError):
            return torch.distributed.isend(heartbeat, rank, self._group)
        return None


def _has_ended(work: Work | None, longest: timedelta) -> bool:
    """Whether a message has been sent or received, waiting for it; False if the other process is gone or silent."""
    with suppress(RuntimeError):
        return work is not None and work.wait(longest)
    return False
