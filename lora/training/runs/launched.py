"""Whether a launcher such as accelerate or torchrun has started this process as one of several, by its environment.

Imports nothing that takes time, as every start of `script/train` asks this.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

SIZE, RANK, LOCAL_RANK, ADDRESS, PORT = "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"
INTERFACE = "GLOO_SOCKET_IFNAME"
LARGEST_PORT = 65535
LOOPBACK = ("127.0.0.1", "localhost")


class LaunchError(ValueError):
    """Raised if the processes that a launcher should have started cannot be joined."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The place of this process among those that a launcher has started."""

    rank: int  # 0 is the first process, which reads, checks, encodes and writes
    size: int  # number of processes on all machines, at least 2
    local_rank: int  # among the processes of this machine
    address: str  # of the machine of the first process
    port: int


def launched_process(environment: Mapping[str, str]) -> Launched | None:
    """The place that the variables of torch.distributed give to this process; None if it is the only one.

    Raises LaunchError with one sentence if they say that there are several, and one of them is missing or invalid.
    """
    given = environment.get(SIZE, "").strip()
    if given in ("", "1"):
        return None
    if not given.isdecimal() or int(given) == 0:
        raise LaunchError(f"{SIZE} is {given!r}: expected the number of processes; {_remedy()}")
    missing = [name for name in (RANK, LOCAL_RANK, ADDRESS, PORT) if not environment.get(name, "").strip()]
    if missing:
        raise LaunchError(f"{SIZE} is {given}, and {missing[0]} is not set: expected both; {_remedy()}")
    size = int(given)
    return Launched(
        rank=_number(environment, RANK, most=size - 1),
        size=size,
        local_rank=_number(environment, LOCAL_RANK, most=size - 1),
        address=environment[ADDRESS].strip(),
        port=_number(environment, PORT, most=LARGEST_PORT),
    )


def choose_interface(address: str, port: int) -> None:
    """Let gloo listen on the interface that reaches the first machine, unless GLOO_SOCKET_IFNAME names one.

    By default gloo takes the address of the machine's name, which is 127.0.1.1 on Debian and Ubuntu: other machines
    cannot connect to that.
    """
    if os.environ.get(INTERFACE):
        return
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing
        own = probe.getsockname()[0]
        if own.startswith("127.") and address not in LOOPBACK:  # so here, too, the name leads to this machine only
            return
        names = (name for name, found in psutil.net_if_addrs().items() if any(own == each.address for each in found))
        if name := next(names, None):
            os.environ[INTERFACE] = name


def _number(environment: Mapping[str, str], name: str, *, most: int) -> int:
    given = environment[name].strip()
    if not given.isdecimal() or int(given) > most:
        raise LaunchError(f"{name} is {given!r}: expected 0 to {most}; {_remedy()}")
    return int(given)


def _remedy() -> str:
    return f"accelerate launch and torchrun set them, and without {SIZE} this machine trains alone"
