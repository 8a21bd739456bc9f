"""The processes of a training that a launcher has started, perhaps on several machines, as seen from one of them.

The first process (rank_zero.py) sends commands, which the others carry out (other_ranks.py). One group of
torch.distributed is for commands, one for the heartbeats by which a lost machine is noticed, and two, for each attempt
at the training, for files and gradients.
"""

import os
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.distributed import ProcessGroup

from lora.engine.out_of_memory import is_out_of_memory
from lora.training.learning.data_parallel import DataParallel, EndedElsewhereError
from lora.training.runs.heartbeat import Heartbeat
from lora.training.runs.launched import Launched
from lora.training.runs.process_info import ProcessInfo

LONGEST_WAIT = timedelta(days=7)  # for a process that is alive: the first one reads, encodes, validates, samples alone
LONGEST_SILENCE = timedelta(seconds=24)  # of a process, before it counts as lost; our choice
SECONDS_TO_NOTICE = 5.0  # after a connection was closed, until the heartbeats say why
# After another process is lost: until the main thread has noticed, is interrupted, and has saved a checkpoint.
SECONDS_TO_INTERRUPT, SECONDS_TO_SAVE = 8.0, 20.0
SECONDS_BETWEEN_POLLS = 0.1
LOST = 1  # the exit code
FAILURES = (ValueError, OSError, RuntimeError, MemoryError, KeyboardInterrupt)

Result = TypeVar("Result")


def interruptible(call: Callable[[], Result], *, longest: timedelta = LONGEST_WAIT) -> Result:
    """The result of a call of torch.distributed, which a thread of its own makes: in the main thread, Ctrl-C and other
    signals would have no effect until it has ended. Raises TimeoutError if it takes longer than `longest`."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except (ValueError, OSError, RuntimeError) as error:
            future.set_exception(error)
        finally:
            future.cancel()  # does nothing but after another error, which the thread prints

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + longest.total_seconds()
    while thread.is_alive():  # `interrupt_main` does not end a wait without a timeout
        thread.join(SECONDS_BETWEEN_POLLS)
        if time.monotonic() > deadline:
            raise TimeoutError("another process does not respond")
    return future.result()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt has failed in a process."""

    text: str
    is_out_of_memory: bool
    is_consequence: bool  # of a failure in another process

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """The failure that an exception stands for."""
        is_consequence = isinstance(error, EndedElsewhereError)
        shown = error.__cause__ if is_consequence and error.__cause__ else error  # what gloo or NCCL says
        text = "it was interrupted" if isinstance(error, KeyboardInterrupt) else str(shown) or type(shown).__name__
        out_of_memory = isinstance(error, Exception) and is_out_of_memory(error)
        return cls(text, out_of_memory, is_consequence)


class ProcessGroups:
    """The groups that this process shares with the others."""

    def __init__(self, launched: Launched, control: ProcessGroup, heartbeats: ProcessGroup) -> None:
        self.rank, self.size, self._local_rank = launched.rank, launched.size, launched.local_rank
        self._control, self._attempts = control, 0
        self._parallel: DataParallel | None = None
        self._nccl: ProcessGroup | None = None  # of the attempt, if it is on GPUs
        self._infos: tuple[ProcessInfo, ...] = ()
        self._is_over = False
        self._is_in_sync = True  # no call that all processes make at the same time has been broken off
        self._lost: str | None = None  # the sentence on the process that is lost
        self._heartbeat = Heartbeat(
            heartbeats,
            rank=self.rank,
            size=self.size,
            longest_silence=LONGEST_SILENCE,
            on_loss=self._end_after_loss,
            on_failure=self._abort,
        )
        self._heartbeat.start()

    def gather(self, info: ProcessInfo) -> tuple[ProcessInfo, ...]:
        """What each process has, in the order of their ranks."""
        found: list[Any] = [None] * self.size
        self._together(lambda: torch.distributed.all_gather_object(found, info, group=self._control))
        self._infos = tuple(found)
        return self._infos

    def broadcast(self, command: object = None) -> object:
        """Send a command from the first process to the others; returns it in all."""
        commands = [command]
        self._together(lambda: torch.distributed.broadcast_object_list(commands, src=0, group=self._control))
        return commands[0]

    @contextmanager
    def attempt(self, *, batch_size: int) -> Iterator[DataParallel]:
        """The groups for files and gradients of an attempt at the training, which all processes begin and end together.

        If it fails in one of them, it ends in all. Raises the error of this process, or else torch.OutOfMemoryError or
        RuntimeError for that of another process.
        """
        self._attempts += 1
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        group, host_group = (
            torch.distributed.new_group(backend=each, timeout=LONGEST_WAIT) for each in (backend, "gloo")
        )
        self._parallel = parallel = DataParallel(
            rank=self.rank,
            size=self.size,
            batch_size=batch_size,
            group=group,
            host_group=host_group,
            check=self._check,
        )
        self._nccl = group if backend == "nccl" else None
        del group, host_group
        with ExitStack() as stack:
            stack.push(lambda _type, error, _traceback: self._end_attempt(parallel, error))
            yield parallel

    def _end_attempt(self, parallel: DataParallel, error: BaseException | None) -> None:
        if error is not None:
            self._heartbeat.report_failure(self._attempts)
            self.refuse_if_lost(error)
        parallel.close()
        failures = self._failures(error)
        self._parallel = self._nccl = None
        if error is None:
            self._is_over = self.rank == 0  # it has the result, and needs the others no more
        elif isinstance(error, EndedElsewhereError):
            self._raise_first(failures)

    def end(self, code: int) -> bool:
        """End all processes; the others get the exit code of the first one. Whatever happens to them now is ignored.
        Returns False if some could not be reached: the destructors of torch.distributed would wait for these."""
        is_complete = self._lost is None and self._heartbeat.is_running and self._is_in_sync
        self._is_over = True
        if is_complete:
            try:
                self.broadcast(code)
            except EndedElsewhereError:
                return False
            self.leave()
        return is_complete

    def leave(self) -> None:
        """Leave all groups, as all the other processes do now."""
        self._is_over = True
        self._heartbeat.stop()
        torch.distributed.destroy_process_group()

    def refuse_if_lost(self, error: BaseException) -> None:
        """Raise EndedElsewhereError with the sentence on the lost process, if that is what an error comes from."""
        if isinstance(error, EndedElsewhereError):
            self._wait_until(lambda: self._lost is not None or self._has_failed(), SECONDS_TO_NOTICE)
        self._refuse_if_lost(error)

    def _refuse_if_lost(self, error: BaseException | None) -> None:
        if self._lost is not None:
            raise EndedElsewhereError(self._lost) from error

    def _together(self, call: Callable[[], object]) -> None:
        self._is_in_sync = False
        try:
            interruptible(call)
        except RuntimeError as error:  # gloo has messages of its own
            raise EndedElsewhereError("another process of the training has ended") from error
        self._is_in_sync = True

    def _check(self) -> None:
        self._refuse_if_lost(None)
        if self._has_failed():
            raise EndedElsewhereError("the training has failed in another process")

    def _has_failed(self) -> bool:
        """Whether the attempt has failed in another process, as the heartbeats say."""
        return self._heartbeat.failed_attempt >= self._attempts > 0

    def _failures(self, error: BaseException | None) -> list[Failure | None]:
        found: list[Failure | None] = [None] * self.size
        own = Failure.of(error) if error is not None else None
        try:
            self._together(lambda: torch.distributed.all_gather_object(found, own, group=self._control))
        except EndedElsewhereError as ended:
            self.refuse_if_lost(ended)
            raise
        return found

    def _raise_first(self, failures: list[Failure | None]) -> None:
        """Raise the failure that the others are consequences of."""
        if any(each and each.is_out_of_memory for each in failures):
            raise torch.OutOfMemoryError("a process of the training ran out of memory")
        for rank, failure in enumerate(failures):
            if failure and not failure.is_consequence:
                raise RuntimeError(f"{self._named(rank)} has failed: {failure.text}")
        reason = next(each.text for each in failures if each).splitlines()[0]
        raise EndedElsewhereError(f"the connection between the processes of the training has broken ({reason})")

    def _named(self, rank: int) -> str:
        return str(self._infos[rank]) if self._infos else f"rank {rank}"

    def _wait_until(self, is_known: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not is_known() and time.monotonic() < deadline:
            self._heartbeat.hurry()
            time.sleep(SECONDS_BETWEEN_POLLS)
        return is_known()

    def _abort(self) -> None:
        """End what NCCL waits for, in a thread of its own, as that may wait, too."""
        if (group := self._nccl) is not None:
            threading.Thread(target=group.abort, daemon=True).start()

    def _end_after_loss(self, rank: int | None) -> None:
        """End this process, in the thread of the heartbeats; the first process gets time to save a checkpoint."""
        time.sleep(2 * SECONDS_BETWEEN_POLLS)  # the main thread may just have been told that all is over
        if self._is_over:
            return
        gone = f"{self._named(rank or 0)} has ended or does not respond any more"
        self._lost = f"{gone}, and a training cannot go on with fewer processes"
        if self.rank == 0:
            self._abort()
            self._end_main_thread()
        if rank is not None and self._local_rank == 0:
            sys.stderr.write(f"error: {self._lost}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(LOST)

    def _end_main_thread(self) -> None:
        """Give the main thread time to end by itself. It may be anywhere; while it waits for gradients, and while it
        saves after that, it must not be interrupted."""
        parallel = self._parallel
        if parallel is None or not self._wait_until(lambda: parallel.has_ended, SECONDS_TO_INTERRUPT):
            interrupt_main()
        time.sleep(SECONDS_TO_SAVE)
