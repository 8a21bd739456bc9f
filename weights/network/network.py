"""Who is asked, how patiently, and with which tokens: records that the caller makes. Asks nobody itself."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# From a host and a port to the addresses that it has; raises OSError
Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Every address of a host, IPv4 first, as many machines have no way to the others; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found}, key=lambda address: (":" in address, address))


@dataclass(frozen=True, slots=True)
class NetworkTimeouts:
    """How long to wait for another machine, in seconds; reference/reliability.md, section 4."""

    connecting: float = 10
    silence: float = 30  # between two pieces of an answer, and for its head
    whole: float = 15 * 60  # for a download with all its repetitions
    min_bytes_per_second: float = 100_000  # bytes in a second, on average over a `window`
    window: float = 60
    pauses: tuple[float, ...] = (1, 2, 4, 8, 16)  # before each repetition, and then no more
    max_retry_delay: float = 60  # together, also where a server asks for longer ones


@dataclass(frozen=True, slots=True)
class Network:
    """The services by their URLs, and the rules for asking anybody."""

    hugging_face: str = "https://huggingface.co"
    civitai: str = "https://civitai.com"
    replicate: str = "https://replicate.com"
    # scheme://host:port that are asked though they are not https or not public, such as a mirror of one's own
    trusted: frozenset[str] = frozenset()
    resolve: Resolve = resolve
    patience: NetworkTimeouts = NetworkTimeouts()


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a person gives to be let in; each goes to its own service and nowhere else."""

    hugging_face: str = field(default="", repr=False)
    civitai: str = field(default="", repr=False)
    replicate: str = field(default="", repr=False)
