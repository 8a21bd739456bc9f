"""Settings of the network: services, timeouts and tokens, in records that the caller creates. Sends no request."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A host and a port -> the addresses of the host; raises OSError
Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """Return every address of a host, IPv4 first because many machines have no IPv6 route; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found}, key=lambda address: (":" in address, address))


@dataclass(frozen=True, slots=True)
class NetworkTimeouts:
    """How long to wait for a server, in seconds; reference/reliability.md, section 4."""

    connect: float = 10
    read: float = 30  # without a byte of the body, and for all headers
    total: float = 15 * 60  # for a download with all its retries
    min_bytes_per_second: float = 100_000  # on average over a `speed_window`
    speed_window: float = 60
    retry_delays: tuple[float, ...] = (1, 2, 4, 8, 16)  # one before each retry; their number limits the retries
    max_total_delay: float = 60  # of failed attempts, silences and pauses together, also if a server requests more


@dataclass(frozen=True, slots=True)
class Network:
    """The URLs of the services, and the rules for requests to any server."""

    hugging_face: str = "https://huggingface.co"
    civitai: str = "https://civitai.com"
    replicate: str = "https://replicate.com"
    # scheme://host:port that may be requested although they are not https or not public, such as a local mirror
    trusted: frozenset[str] = frozenset()
    resolve: Resolve = resolve
    timeouts: NetworkTimeouts = NetworkTimeouts()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The user's tokens. Each is sent to its own service only."""

    hugging_face: str = field(default="", repr=False)
    civitai: str = field(default="", repr=False)
    replicate: str = field(default="", repr=False)
