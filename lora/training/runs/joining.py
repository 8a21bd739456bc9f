"""Join the processes that a launcher has started, as the first one of them or another one."""

import atexit
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import partial

import torch
import torch.distributed
from torch.distributed import ProcessGroup

from lora.training.runs.launched import Launched, LaunchError, choose_interface
from lora.training.runs.process_groups import FAILURES, LONGEST_WAIT, ProcessGroups, interruptible

LONGEST_JOIN = timedelta(minutes=10)  # between the starts of the machines; our choice
LONGEST_CONNECT = timedelta(minutes=2)  # of processes that have just met; our choice
INTERRUPTED = 130  # the exit code after Ctrl-C: 128 + SIGINT, as a shell has it

CURRENT: ContextVar[ProcessGroups | None] = ContextVar("process_groups", default=None)


def join(launched: Launched) -> ProcessGroups:
    """Join the other processes. Raises LaunchError with one sentence if they are not all there after ten minutes."""
    choose_interface(launched.address, launched.port)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    if count := torch.cuda.device_count():
        torch.cuda.set_device(launched.local_rank % count)
    try:
        interruptible(partial(torch.distributed.init_process_group, "gloo", timeout=LONGEST_JOIN))
        control, heartbeats = interruptible(_new_groups, longest=LONGEST_CONNECT)
    except KeyboardInterrupt:
        exit_without_others(INTERRUPTED)
        raise
    except (RuntimeError, ValueError, TimeoutError) as error:  # of the store, of gloo, of the address
        exit_without_others(1)
        place, reason = f"{launched.address}:{launched.port}", str(error).splitlines()[0]
        expected = f"expected the same command on every machine within {LONGEST_JOIN.seconds // 60} minutes"
        raise LaunchError(f"the {launched.size} processes do not all meet at {place} ({reason}): {expected}") from error
    return ProcessGroups(launched, control, heartbeats)


def _new_groups() -> list[ProcessGroup]:
    return [torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT) for _ in range(2)]


@contextmanager
def joined(launched: Launched | None) -> Iterator[None]:
    """A context in which this process, the first one of several, commands the others, which end with it and with its
    exit code. Without others it does nothing. Raises what `join` raises."""
    if launched is None:
        yield
        return
    groups, code, is_complete = join(launched), 1, False
    token = CURRENT.set(groups)
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        raise
    finally:
        CURRENT.reset(token)
        try:
            is_complete = groups.end(code)
        finally:
            if not is_complete:
                exit_without_others(code)


def current_groups() -> ProcessGroups | None:
    """The processes that a launcher has started, if this one is the first of them."""
    return CURRENT.get()


@contextmanager
def naming_lost_machine() -> Iterator[None]:
    """Replace errors that come from the loss of another process by EndedElsewhereError with a sentence on it."""
    try:
        yield
    except FAILURES as error:
        if groups := current_groups():
            groups.refuse_if_lost(error)
        raise


def exit_without_others(code: int) -> None:
    """Let this process end with an exit code as soon as Python ends, where libtorch would wait for other processes."""
    atexit.register(partial(_exit_now, code))  # the last one registered is the first one called


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
